//! Who a process is, where it stands, which file it runs.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tether_protocol::config::Session;
use tether_sys::{process, signals};

use super::environment::PATH;
use super::error::{LaunchError, Step};
use crate::accounts::{self, Account};
use crate::reaper;

pub(super) fn account(spec: &Session) -> Result<Account, LaunchError> {
    accounts::look_up(Path::new("/"), &spec.user, &spec.groups)
        .map_err(|error| LaunchError::plain(error.to_string()))
}

pub(super) fn make_working_directory(spec: &Session) -> Result<(), LaunchError> {
    if spec.dir.is_empty() || Path::new(&spec.dir).is_dir() {
        return Ok(());
    }
    match fs::create_dir_all(&spec.dir) {
        Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
            let text = format!("mkdir {}: {}", spec.dir, words(&error));
            Err(LaunchError::program(code(&error), &text))
        }
        _ => Ok(()),
    }
}

/// Enters the working directory, finds the program, and becomes it. Comes back only with an error,
/// or with the exit code of a program that is no program.
pub(super) fn run(spec: &Session, env: &[String]) -> Result<i32, LaunchError> {
    let dir = if spec.dir.is_empty() { "/" } else { &spec.dir };
    if let Err(error) = std::env::set_current_dir(dir) {
        let text = format!(
            "chdir to cwd (\"{dir}\") set in config.json failed: {}",
            words(&error)
        );
        return Err(LaunchError::program(code(&error), &text));
    }
    let name = spec.args.first().map(String::as_str).unwrap_or_default();
    let path = find(name, env)?;
    let c = |text: &String| CString::new(text.as_bytes()).map_err(io::Error::from);
    let argv = spec
        .args
        .iter()
        .map(c)
        .collect::<io::Result<Vec<_>>>()
        .step("reading arguments")?;
    let env = env
        .iter()
        .map(c)
        .collect::<io::Result<Vec<_>>>()
        .step("reading the environment")?;
    process::cloexec_from(3).step("closing descriptors")?;
    signals::reset().step("resetting signals")?;
    let Err(error) = process::exec(&path, &argv, &env);
    if error.raw_os_error() == Some(nix::libc::EACCES) {
        return Err(LaunchError::program(
            126,
            &format!("exec: \"{name}\": permission denied"),
        ));
    }
    // From here on docker counts the container as started, and it ends with 255.
    eprintln!("exec {}: {}", path.display(), words(&error));
    Ok(255)
}

/// Becomes the reaper for the child `pid`.
pub(super) fn become_reaper(pid: i32) -> Result<i32, LaunchError> {
    signals::block(&reaper::passed_on()).step("blocking signals")?;
    process::cloexec_from(3).step("closing descriptors")?;
    let pid = CString::new(pid.to_string())
        .map_err(io::Error::from)
        .step("naming the child")?;
    let name = CString::new(reaper::NAME)
        .map_err(io::Error::from)
        .step("naming the reaper")?;
    let Err(error) = process::exec(Path::new("/proc/self/exe"), &[name, pid], &[]);
    Err(LaunchError::internal("starting the reaper", &error))
}

fn find(name: &str, env: &[String]) -> Result<PathBuf, LaunchError> {
    let failed =
        |code, text: String| LaunchError::program(code, &format!("exec: \"{name}\": {text}"));
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(Unfit::Directory) => Err(failed(126, "is a directory: permission denied".into())),
            Err(Unfit::NotExecutable) => Err(failed(126, "permission denied".into())),
            Err(Unfit::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(failed(126, "permission denied".into()))
            }
            Err(Unfit::Io(error)) => Err(failed(127, format!("stat {name}: {}", words(&error)))),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(PATH);
    let mut denied = false;
    for dir in path.split(':').filter(|_| !name.is_empty()) {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Unfit::Io(error)) if error.kind() != io::ErrorKind::PermissionDenied => {}
            Err(_) => denied = true,
        }
    }
    if denied {
        return Err(failed(126, "permission denied".into()));
    }
    Err(failed(127, "executable file not found in $PATH".into()))
}

enum Unfit {
    Directory,
    NotExecutable,
    Io(io::Error),
}

fn check(path: &Path) -> Result<(), Unfit> {
    let data = fs::metadata(path).map_err(Unfit::Io)?;
    if data.is_dir() {
        return Err(Unfit::Directory);
    }
    if data.permissions().mode() & 0o111 == 0 {
        return Err(Unfit::NotExecutable);
    }
    Ok(())
}

/// An error as Go prints it.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(nix::libc::ENOENT) => "no such file or directory".to_owned(),
        Some(nix::libc::EACCES) => "permission denied".to_owned(),
        Some(nix::libc::ENOTDIR) => "not a directory".to_owned(),
        Some(nix::libc::ENOEXEC) => "exec format error".to_owned(),
        Some(nix::libc::ELOOP) => "too many levels of symbolic links".to_owned(),
        Some(nix::libc::EROFS) => "read-only file system".to_owned(),
        Some(nix::libc::E2BIG) => "argument list too long".to_owned(),
        _ => error.to_string(),
    }
}

fn code(error: &io::Error) -> i32 {
    match error.raw_os_error() {
        Some(nix::libc::EACCES) => 126,
        Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => 127,
        _ => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_path_has_dockers_words() {
        let error = find("nope", &["PATH=/bin:/nowhere".into()]).unwrap_err();
        assert_eq!(error.code, 127);
        assert!(error.text.ends_with(
            "runc create failed: unable to start container process: \
             exec: \"nope\": executable file not found in $PATH: unknown"
        ));
        assert!(
            error
                .of_exec()
                .text
                .starts_with("OCI runtime exec failed: exec failed: unable")
        );
    }

    #[test]
    fn paths_are_told_by_what_is_there() {
        assert_eq!(find("/", &[]).unwrap_err().code, 126);
        assert_eq!(find("/etc/passwd", &[]).unwrap_err().code, 126);
        let missing = find("/no/such", &[]).unwrap_err();
        assert_eq!(missing.code, 127);
        assert!(
            missing
                .text
                .contains("exec: \"/no/such\": stat /no/such: no such file or directory")
        );
        assert_eq!(find("/etc/passwd/x", &[]).unwrap_err().code, 127);
    }
}
