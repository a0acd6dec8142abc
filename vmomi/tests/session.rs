//! The session against a server that fails on purpose.

#![allow(clippy::unwrap_used)]

#[path = "support/server.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::{Reply, Server};
use vmomi::client::{Client, Retry};
use vmomi::types::*;
use vmomi::{DateTime, Error, ManagedObjectReference};

fn vm() -> ManagedObjectReference {
    ManagedObjectReference::new("VirtualMachine", "vm-1")
}

#[tokio::test]
async fn a_session_that_has_ended_is_renewed_once_for_all_who_notice() {
    let ended = Arc::new(AtomicUsize::new(0));
    let last = ended.clone();
    let server = Server::start(move |request, cookie| {
        let last = last.clone();
        Box::pin(async move {
            // The value is opaque: its quotes and its equals sign come back as they went out.
            let cookie = cookie.unwrap();
            let session = cookie
                .strip_prefix("vmware_soap_session=\"opaque=")
                .unwrap();
            let session: usize = session.strip_suffix('"').unwrap().parse().unwrap();
            if session <= last.load(Ordering::SeqCst) {
                return Reply::fault(NotAuthenticated::default());
            }
            Reply::of(request.method.name, &DateTime::now())
        })
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let this = ManagedObjectReference::service_instance();
    client
        .current_time(&this, CurrentTimeRequest {})
        .await
        .unwrap();
    assert_eq!(server.count("Login"), 1);
    ended.store(1, Ordering::SeqCst);
    let calls = (0..10).map(|_| client.current_time(&this, CurrentTimeRequest {}));
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    assert_eq!(server.count("Login"), 2);
    // A server that never accepts the new session gets one more login, and then the caller the fault.
    ended.store(usize::MAX, Ordering::SeqCst);
    let error = client
        .current_time(&this, CurrentTimeRequest {})
        .await
        .unwrap_err();
    assert!(error.is_fault("NotAuthenticated"));
    assert_eq!(server.count("Login"), 3);
}

#[tokio::test]
async fn a_session_that_was_closed_is_not_renewed_by_what_still_stands() {
    let closed = Arc::new(AtomicUsize::new(0));
    let logout = closed.clone();
    let server = Server::start(move |request, _| {
        let closed = logout.clone();
        Box::pin(async move {
            if closed.load(Ordering::SeqCst) > 0 {
                return Reply::fault(NotAuthenticated::default());
            }
            if request.method.name == "Logout" {
                closed.fetch_add(1, Ordering::SeqCst);
                return Reply::of(request.method.name, &());
            }
            Reply::of(request.method.name, &DateTime::now())
        })
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let other = client.clone();
    client.close().await.unwrap();
    let this = ManagedObjectReference::service_instance();
    other
        .current_time(&this, CurrentTimeRequest {})
        .await
        .unwrap_err();
    assert_eq!(server.count("Login"), 1);
}

#[tokio::test]
async fn a_call_that_only_reads_survives_a_broken_connection_and_no_other_is_sent_twice() {
    let left = Arc::new(AtomicUsize::new(2));
    let server = Server::start(move |request, _| {
        let left = left.clone();
        Box::pin(async move {
            if request.method.name == "PowerOnVM_Task" {
                return Reply::Close;
            }
            if left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok()
            {
                return Reply::Close;
            }
            Reply::of(request.method.name, &DateTime::now())
        })
    })
    .await;
    let mut config = server.config();
    config.retry = Retry {
        attempts: 3,
        first: Duration::from_millis(1),
        longest: Duration::from_millis(1),
    };
    let client = Client::connect(config).await.unwrap();
    let this = ManagedObjectReference::service_instance();
    client
        .current_time(&this, CurrentTimeRequest {})
        .await
        .unwrap();
    assert_eq!(server.count("CurrentTime"), 3);
    let error = client
        .power_on_vm_task(&vm(), PowerOnVMRequest::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert!(error.is_retryable() && error.is_ambiguous());
    assert_eq!(server.count("PowerOnVM_Task"), 1);
    let record = client.calls().snapshot();
    assert_eq!(
        (record["CurrentTime"].count, record["CurrentTime"].failed),
        (3, 2)
    );
}

#[tokio::test]
async fn a_server_that_stalls_is_given_up_at_the_deadline() {
    let server = Server::start(|_, _| Box::pin(async { Reply::Hang })).await;
    let mut config = server.config();
    config.timeout = Duration::from_millis(200);
    let client = Client::connect(config).await.unwrap();
    let error = client
        .power_off_vm_task(&vm(), PowerOffVMRequest {})
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "PowerOffVM_Task: {} did not answer within 200ms",
            server.address
        )
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut config = vmomi::Config::new(&format!("http://root:secret@{address}/sdk")).unwrap();
    config.retry = Retry {
        attempts: 2,
        first: Duration::from_millis(1),
        longest: Duration::from_millis(1),
    };
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("RetrieveServiceContent: {address} cannot be reached")
    );
    assert!(error.is_retryable() && !error.is_ambiguous());
    assert!(!format!("{error:?}").contains("secret"));
}

#[tokio::test]
async fn what_is_no_answer_of_the_api_is_told_with_its_status() {
    let server = Server::start(|request, _| {
        Box::pin(async move {
            match request.method.name {
                "PowerOnVM_Task" => Reply::Text(503, "busy".into()),
                "PowerOffVM_Task" => Reply::Text(500, "no SOAP".into()),
                _ => Reply::Text(200, "<html>".into()),
            }
        })
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let error = client
        .power_on_vm_task(&vm(), PowerOnVMRequest::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Status { status: 503, .. }) && error.is_retryable());
    let error = client
        .power_off_vm_task(&vm(), PowerOffVMRequest {})
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Status { status: 500, .. }) && !error.is_retryable());
    let error = client
        .destroy_task(&vm(), DestroyRequest {})
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
}

#[tokio::test]
async fn no_more_calls_are_under_way_than_a_server_likes() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = go.clone();
    let server = Server::start(move |request, _| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Reply::of(request.method.name, &DateTime::now())
        })
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                client
                    .current_time(
                        &ManagedObjectReference::service_instance(),
                        CurrentTimeRequest {},
                    )
                    .await
            })
        })
        .collect();
    while server.at_once.load(Ordering::SeqCst) < vmomi::client::IN_FLIGHT {
        tokio::task::yield_now().await;
    }
    go.add_permits(100);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(
        server.most_at_once.load(Ordering::SeqCst),
        vmomi::client::IN_FLIGHT
    );
}

#[tokio::test]
async fn an_idle_session_is_kept_alive_until_its_last_client_is_gone() {
    let (used, mut uses) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |request, _| {
        let used = used.clone();
        Box::pin(async move {
            if request.method.name == "CurrentTime" {
                let _ = used.send(());
            }
            Reply::of(request.method.name, &DateTime::now())
        })
    })
    .await;
    let mut config = server.config();
    config.keep_alive = Duration::from_millis(20);
    let client = Client::connect(config).await.unwrap();
    let clone = client.clone();
    drop(client);
    // Nobody calls anything, and yet the session is used, again and again.
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_secs(30), uses.recv())
            .await
            .expect("kept alive")
            .unwrap();
    }
    assert_eq!(server.count("Login"), 1);
    drop(clone);
    // What was on its way may still come; then the server hears nothing more and its channel can be told empty.
    let quiet = async {
        while let Ok(Some(())) = tokio::time::timeout(Duration::from_millis(500), uses.recv()).await
        {
        }
    };
    tokio::time::timeout(Duration::from_secs(30), quiet)
        .await
        .expect("nobody keeps alive what nobody uses");
}
