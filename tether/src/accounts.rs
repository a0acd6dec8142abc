//! Users and groups, looked up in the image's `/etc/passwd` and `/etc/group`.

use std::fs;
use std::path::Path;

/// Longest account file that is read.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// More groups.
    pub groups: Vec<u32>,
    /// Home directory; `/` when the image says none.
    pub home: String,
}

/// A name that the image does not know, or a number that is none of an account's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnknownAccount {
    /// No such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// A number that no account can have.
    #[error("uids and gids must be in range 0-{max}", max = i32::MAX)]
    Range,
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn users(text: &str) -> impl Iterator<Item = User<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or_default(),
        })
    })
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn read(path: &Path) -> String {
    // Not being there is usual (an image from scratch); what is too long is not believed.
    match fs::metadata(path) {
        Ok(data) if data.is_file() && data.len() <= MAX_FILE => {
            String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
        }
        _ => String::new(),
    }
}

/// Finds out who `spec` (`user|uid[:group|gid]`, empty for root) is, with the groups `more` added,
/// below the directory `root`.
///
/// # Errors
/// When a name is not in the image's files.
pub fn look_up(root: &Path, spec: &str, more: &[String]) -> Result<Account, UnknownAccount> {
    resolve(
        &read(&root.join("etc/passwd")),
        &read(&root.join("etc/group")),
        spec,
        more,
    )
}

fn resolve(
    passwd: &str,
    group: &str,
    spec: &str,
    more: &[String],
) -> Result<Account, UnknownAccount> {
    let (user, wanted_group) = spec.split_once(':').unwrap_or((spec, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number: Option<u32> = user.parse().ok().filter(|n| *n <= i32::MAX as u32);
    let found = users(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| users(passwd).find(|entry| Some(entry.uid) == number));
    let mut account = match (&found, number) {
        (Some(entry), _) => Account {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: entry.home.to_owned(),
        },
        (None, Some(uid)) => Account {
            uid,
            ..Account::default()
        },
        (None, None) if user.parse::<i64>().is_ok() => return Err(UnknownAccount::Range),
        (None, None) => return Err(UnknownAccount::User(user.to_owned())),
    };
    if account.home.is_empty() {
        account.home = "/".to_owned();
    }
    let find_group = |name: &str| {
        let number: Option<u32> = name.parse().ok().filter(|n| *n <= i32::MAX as u32);
        let by_name = groups(group).find(|(entry, ..)| *entry == name);
        let found = by_name.or_else(|| groups(group).find(|(_, gid, _)| Some(*gid) == number));
        let gid = found.map(|(_, gid, _)| gid).or(number);
        gid.ok_or_else(|| match name.parse::<i64>() {
            Ok(_) => UnknownAccount::Range,
            Err(_) => UnknownAccount::Group(name.to_owned()),
        })
    };
    if wanted_group.is_empty() {
        if let Some(entry) = &found {
            let member = |(_, gid, members): (&str, u32, &str)| {
                members.split(',').any(|m| m == entry.name).then_some(gid)
            };
            account.groups = groups(group).filter_map(member).collect();
        }
    } else {
        account.gid = find_group(wanted_group)?;
    }
    for name in more {
        account.groups.push(find_group(name)?);
    }
    // A file that is closed to its group stays so for a program that changes its group.
    if !account.groups.contains(&account.gid) {
        account.groups.push(account.gid);
    }
    Ok(account)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\ndisk:x:6:root,web\n";

    fn of(spec: &str) -> Result<Account, UnknownAccount> {
        resolve(PASSWD, GROUP, spec, &[])
    }

    #[test]
    fn a_name_brings_its_groups_and_home() {
        let web = Account {
            uid: 33,
            gid: 33,
            groups: vec![6, 33],
            home: "/srv".into(),
        };
        assert_eq!(of("web"), Ok(web.clone()));
        assert_eq!(of("33"), Ok(web));
        assert_eq!(of("").unwrap().home, "/root");
    }

    #[test]
    fn a_number_needs_no_entry() {
        let account = of("1000:2000").unwrap();
        assert_eq!(
            (account.uid, account.gid, account.home.as_str()),
            (1000, 2000, "/")
        );
    }

    #[test]
    fn a_given_group_replaces_memberships() {
        let account = of("web:disk").unwrap();
        assert_eq!((account.gid, account.groups), (6, vec![6]));
    }

    #[test]
    fn a_number_that_no_account_can_have_is_refused() {
        for spec in ["2147483648", "-1", "0:4294967296", "web:-1"] {
            assert_eq!(of(spec), Err(UnknownAccount::Range), "{spec}");
        }
        let text = of("-1").unwrap_err().to_string();
        assert_eq!(text, "uids and gids must be in range 0-2147483647");
    }

    #[test]
    fn unknown_names_are_named() {
        let text = of("nope").unwrap_err().to_string();
        assert_eq!(
            text,
            "unable to find user nope: no matching entries in passwd file"
        );
        assert_eq!(of("web:nope"), Err(UnknownAccount::Group("nope".into())));
    }

    proptest! {
        #[test]
        fn any_files_hold_accounts_or_none(
            passwd in "([a-z]{0,2}(:[a-z0-9]{0,2}){0,7}\n){0,6}|\\PC{0,60}",
            group in "([a-z]{0,2}(:[a-z0-9,]{0,3}){0,4}\n){0,6}|\\PC{0,60}",
            spec in "[a-z0-9]{0,2}:?[a-z0-9]{0,2}|-?[0-9]{1,12}:-?[0-9]{1,12}",
        ) {
            if let Ok(account) = resolve(&passwd, &group, &spec, &[]) {
                prop_assert!(!account.home.is_empty());
            }
        }
    }
}
