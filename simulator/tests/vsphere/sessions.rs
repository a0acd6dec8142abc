//! Sessions: who may call, for how long, and what belongs to a login.

use vmomi::client::view_spec;
use vmomi::types::*;
use vmomi::{Client, ManagedObjectReference as Moref};

use super::bench::{Raw, bench, client_config, fault_of};

fn manager() -> Moref {
    Moref::new("SessionManager", "ha-sessionmgr")
}

fn login(password: &str) -> LoginRequest {
    LoginRequest {
        user_name: "root".into(),
        password: password.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_login_gives_a_cookie_without_which_nothing_is_answered() {
    let bench = bench().await;
    let mut raw = Raw::new(&bench.simulator);
    let root = Moref::new("Folder", "ha-folder-root");
    // What a client must know before it can log in is told to everybody.
    let content = raw
        .send(
            &Moref::service_instance(),
            &RetrieveServiceContentRequest {},
        )
        .await;
    let content = content.of::<RetrieveServiceContentRequest>();
    assert_eq!(content.expect("is public").root_folder, root);
    let time = CurrentTimeRequest {};
    let refused = raw.send(&Moref::service_instance(), &time).await;
    let refused = refused
        .of::<CurrentTimeRequest>()
        .expect_err("not logged in");
    let refused = refused.get::<NotAuthenticated>().expect("says so").clone();
    assert_eq!(refused.object, Some(Moref::service_instance()));
    // Whether an object exists is not told either.
    let nothing = raw.send(&Moref::new("Folder", "none"), &time).await;
    assert_eq!(nothing.fault::<CurrentTimeRequest>(), "NotAuthenticated");

    let wrong = raw.send(&manager(), &login("guess")).await;
    assert_eq!(wrong.fault::<LoginRequest>(), "InvalidLogin");
    assert_eq!(wrong.cookie, None, "no session for a wrong password");
    let right = raw.send(&manager(), &login("password")).await;
    let user = right.of::<LoginRequest>().expect("logs in");
    assert_eq!(user.user_name, "root");
    raw.cookie = right.cookie.clone();
    let answered = raw.send(&Moref::service_instance(), &time).await;
    answered.of::<CurrentTimeRequest>().expect("is answered");
    let twice = raw.send(&manager(), &login("password")).await;
    assert_eq!(twice.fault::<LoginRequest>(), "InvalidLogin");

    raw.send(&manager(), &LogoutRequest {})
        .await
        .of::<LogoutRequest>()
        .expect("logs out");
    let after = raw.send(&Moref::service_instance(), &time).await;
    assert_eq!(after.fault::<CurrentTimeRequest>(), "NotAuthenticated");
    raw.cookie = Some("made-up".into());
    let forged = raw.send(&Moref::service_instance(), &time).await;
    assert_eq!(forged.fault::<CurrentTimeRequest>(), "NotAuthenticated");
}

#[tokio::test]
async fn sessions_are_listed_and_an_admin_ends_one() {
    let bench = bench().await;
    let other = Client::connect(client_config(&bench.simulator, "root"))
        .await
        .expect("logs in");
    let mine: UserSession = bench
        .client
        .property(&manager(), "currentSession")
        .await
        .expect("reads")
        .expect("is set");
    let theirs: UserSession = other
        .property(&manager(), "currentSession")
        .await
        .expect("reads")
        .expect("is set");
    assert_ne!(mine.key, theirs.key);
    assert_eq!(mine.user_name, "root");
    let list: Vec<UserSession> = bench
        .client
        .property(&manager(), "sessionList")
        .await
        .expect("reads")
        .expect("is set");
    assert_eq!(list.len(), 2);
    let active = |id: &str| SessionIsActiveRequest {
        session_id: id.into(),
        user_name: "root".into(),
    };
    let is = bench.client.invoke(&manager(), active(&theirs.key)).await;
    assert!(is.expect("asks"));
    let end = |id: &str| TerminateSessionRequest {
        session_id: vec![id.into()],
    };
    bench
        .client
        .invoke(&manager(), end(&theirs.key))
        .await
        .expect("ends it");
    let is = bench.client.invoke(&manager(), active(&theirs.key)).await;
    assert!(!is.expect("asks"));
    let again = bench.client.invoke(&manager(), end(&theirs.key)).await;
    assert_eq!(fault_of(again), "NotFound");
    // The client whose session was ended logs in again by itself.
    other
        .property::<String>(&manager(), "defaultLocale")
        .await
        .expect("a new session");
    let new: UserSession = other
        .property(&manager(), "currentSession")
        .await
        .expect("reads")
        .expect("is set");
    assert_ne!(new.key, theirs.key);
}

#[tokio::test]
async fn what_a_session_made_ends_with_it_and_is_nobody_elses() {
    let bench = bench().await;
    let other = Client::connect(client_config(&bench.simulator, "root"))
        .await
        .expect("logs in");
    let content = other.content().clone();
    let request = CreateContainerViewRequest {
        container: content.root_folder.clone(),
        r#type: vec!["Datastore".into()],
        recursive: true,
    };
    let views = content.view_manager.clone().expect("has one");
    let view = other.invoke(&views, request).await.expect("a view");
    let collector = other
        .invoke(
            &content.property_collector,
            CreatePropertyCollectorRequest {},
        )
        .await
        .expect("a collector");
    let filter = CreateFilterRequest {
        spec: view_spec(&view, &["Datastore"], &["name"]),
        partial_updates: false,
    };
    let filter = other.invoke(&collector, filter).await.expect("a filter");
    // A collector and its filters are seen by their own session only.
    let wait = CheckForUpdatesRequest { version: None };
    let strange = bench.client.invoke(&collector, wait.clone()).await;
    assert_eq!(fault_of(strange), "ManagedObjectNotFound");
    let strange = bench
        .client
        .invoke(&filter, DestroyPropertyFilterRequest {});
    assert_eq!(fault_of(strange.await), "ManagedObjectNotFound");
    let updates = other.invoke(&collector, wait.clone()).await.expect("waits");
    assert_eq!(
        updates.expect("the first state").filter_set[0].filter,
        filter
    );
    other.close().await.expect("logs out");
    let gone = bench
        .client
        .property::<Vec<Moref>>(&view, "view")
        .await
        .expect_err("the view went with its session");
    assert!(gone.is_fault("ManagedObjectNotFound"), "{gone}");
}
