//! Words about a container: `Status`, `Command`.

use std::borrow::Cow;
use std::time::Duration;

use actors::container::ContainerSnapshot;
use time::OffsetDateTime;

use crate::docker::human;

/// `Up 3 seconds (Paused)`, `Exited (0) About a minute ago`, …
pub fn status(container: &ContainerSnapshot, now: OffsetDateTime) -> String {
    let since = |at: Option<OffsetDateTime>| {
        let elapsed = at.map_or(Duration::ZERO, |at| {
            Duration::try_from(now - at).unwrap_or_default()
        });
        human::duration(elapsed)
    };
    match container.status_word() {
        "paused" => format!("Up {} (Paused)", since(container.started_at)),
        "running" => format!("Up {}", since(container.started_at)),
        "removing" => "Removal In Progress".to_owned(),
        "dead" => "Dead".to_owned(),
        "exited" => format!(
            "Exited ({}) {} ago",
            container.exit_code,
            since(container.finished_at)
        ),
        _ => "Created".to_owned(),
    }
}

/// The command as `ps` shows it: arguments with a blank in single quotes.
pub fn command(argv: &[String]) -> String {
    let mut text = String::with_capacity(argv.iter().map(|a| a.len() + 3).sum());
    for (index, argument) in argv.iter().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        // Only arguments are quoted; the path is shown as it is.
        if index > 0 && argument.contains(' ') {
            text.push('\'');
            text.push_str(argument);
            text.push('\'');
        } else {
            text.push_str(argument);
        }
    }
    text
}

/// The image as `ps` shows it: as it was asked for, or its id once that name means another image.
pub fn image_name<'a>(
    container: &'a ContainerSnapshot,
    images: &actors::image::Images,
) -> Cow<'a, str> {
    let name = container.spec.image_name.as_str();
    match actors::image::find(images, name) {
        Ok(image) if image.id == container.spec.image => Cow::Borrowed(name),
        _ => Cow::Owned(container.spec.image.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::tests::sample;
    use actors::container::Phase;

    #[test]
    fn a_command_quotes_arguments_with_blanks() {
        let argv = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            command(&argv(&["sh", "-c", "echo a; b"])),
            "sh -c 'echo a; b'"
        );
        assert_eq!(command(&argv(&["top"])), "top");
    }

    #[test]
    fn status_says_since_when() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(2);
        let mut container = sample::container("a");
        container.phase = Phase::Created;
        assert_eq!(status(&container, now), "Created");
        container.phase = Phase::Running;
        container.started_at = Some(now - time::Duration::seconds(3));
        assert_eq!(status(&container, now), "Up 3 seconds");
        container.phase = Phase::Paused;
        assert_eq!(status(&container, now), "Up 3 seconds (Paused)");
        container.phase = Phase::Exited;
        container.exit_code = 137;
        container.finished_at = Some(now - time::Duration::seconds(61));
        assert_eq!(status(&container, now), "Exited (137) About a minute ago");
        container.removing = true;
        assert_eq!(status(&container, now), "Removal In Progress");
        container.removing = false;
        container.dead = true;
        assert_eq!(status(&container, now), "Dead");
    }
}
