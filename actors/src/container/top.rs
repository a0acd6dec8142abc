//! `docker top`: the guest's process rows in the columns that `ps` would print.

use tether_protocol::session::ProcessRow;
use time::OffsetDateTime;

use super::message::ProcessList;
use crate::error::Error;

/// Makes the table for arguments of `ps`: `-ef` by default, `aux`, and `-o` with a list of columns.
///
/// # Errors
/// [`Error::Invalid`] for a column that we do not have, or one without `PID`.
pub fn table(rows: &[ProcessRow], arguments: &str) -> Result<ProcessList, Error> {
    let columns = columns(arguments)?;
    if !columns.iter().any(|c| c == "pid") {
        return Err(Error::Invalid(
            "Couldn't find PID field in ps output".into(),
        ));
    }
    let now = OffsetDateTime::now_utc();
    Ok(ProcessList {
        titles: columns.iter().map(|c| title(c)).collect(),
        processes: rows
            .iter()
            .map(|row| columns.iter().map(|c| cell(row, c, now)).collect())
            .collect(),
    })
}

fn columns(arguments: &str) -> Result<Vec<String>, Error> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let at = words
        .iter()
        .position(|w| w.starts_with("-o") || w.starts_with("o"));
    let wanted: Vec<String> = match at {
        Some(at) => {
            let attached = words[at].trim_start_matches('-').trim_start_matches('o');
            let list = if attached.is_empty() {
                words.get(at + 1).copied()
            } else {
                Some(attached)
            };
            list.unwrap_or_default()
                .split(',')
                .map(|c| c.trim().to_lowercase())
                .collect()
        }
        None if words
            .first()
            .is_some_and(|w| w.contains('u') && !w.starts_with('-')) =>
        {
            ["user", "pid", "tty", "stime", "time", "cmd"]
                .map(String::from)
                .to_vec()
        }
        None => ["uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"]
            .map(String::from)
            .to_vec(),
    };
    match wanted.iter().find(|c| title(c).is_empty()) {
        Some(unknown) => Err(Error::Invalid(format!(
            "ps: error: unknown user-defined format specifier \"{unknown}\""
        ))),
        None => Ok(wanted),
    }
}

fn title(column: &str) -> String {
    match column {
        "user" | "uid" | "pid" | "ppid" | "c" | "stime" | "tty" | "time" | "cmd" => {
            column.to_uppercase()
        }
        "command" | "args" => "COMMAND".into(),
        "comm" => "COMMAND".into(),
        _ => String::new(),
    }
}

fn cell(row: &ProcessRow, column: &str, now: OffsetDateTime) -> String {
    match column {
        "user" | "uid" => row.user.clone(),
        "pid" => row.pid.to_string(),
        "ppid" => row.ppid.to_string(),
        "c" => "0".into(),
        "tty" => row.tty.clone(),
        "stime" => {
            let Ok(start) = OffsetDateTime::from_unix_timestamp(row.start) else {
                return "?".into();
            };
            if now - start < time::Duration::DAY {
                format!("{:02}:{:02}", start.hour(), start.minute())
            } else {
                let month = start.month().to_string();
                format!("{}{:02}", month.get(..3).unwrap_or_default(), start.day())
            }
        }
        "time" => {
            let s = row.cpu_seconds;
            format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
        }
        "comm" => row
            .command
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned(),
        _ => row.command.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_columns_are_those_of_ps_ef_and_a_list_needs_the_pid() {
        let rows = [ProcessRow {
            user: "root".into(),
            pid: 1,
            command: "sleep 9".into(),
            ..Default::default()
        }];
        let list = table(&rows, "-ef").unwrap();
        assert_eq!(
            list.titles,
            ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        );
        assert_eq!(list.processes[0][7], "sleep 9");
        assert_eq!(
            table(&rows, "-o pid,cmd").unwrap().processes,
            [["1", "sleep 9"]]
        );
        assert!(table(&rows, "-o cmd").is_err());
        assert!(table(&rows, "-o pid,wat").is_err());
    }
}
