//! Signals by name.

/// Number of a signal by name (with or without `SIG`) or number; SIGTERM for what is neither.
pub fn signal_number(name: &str) -> i32 {
    use nix::libc as c;
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let names = [
        ("HUP", c::SIGHUP),
        ("INT", c::SIGINT),
        ("QUIT", c::SIGQUIT),
        ("ILL", c::SIGILL),
        ("TRAP", c::SIGTRAP),
        ("ABRT", c::SIGABRT),
        ("BUS", c::SIGBUS),
        ("FPE", c::SIGFPE),
        ("KILL", c::SIGKILL),
        ("USR1", c::SIGUSR1),
        ("SEGV", c::SIGSEGV),
        ("USR2", c::SIGUSR2),
        ("PIPE", c::SIGPIPE),
        ("ALRM", c::SIGALRM),
        ("TERM", c::SIGTERM),
        ("CHLD", c::SIGCHLD),
        ("CONT", c::SIGCONT),
        ("STOP", c::SIGSTOP),
        ("TSTP", c::SIGTSTP),
        ("TTIN", c::SIGTTIN),
        ("TTOU", c::SIGTTOU),
        ("URG", c::SIGURG),
        ("XCPU", c::SIGXCPU),
        ("XFSZ", c::SIGXFSZ),
        ("VTALRM", c::SIGVTALRM),
        ("PROF", c::SIGPROF),
        ("WINCH", c::SIGWINCH),
        ("IO", c::SIGIO),
        ("PWR", c::SIGPWR),
        ("SYS", c::SIGSYS),
    ];
    let realtime = || {
        let (base, rest) = match name.strip_prefix("RTMIN") {
            Some(rest) => (34, rest),
            None => (64, name.strip_prefix("RTMAX")?),
        };
        let offset: i32 = if rest.is_empty() {
            0
        } else {
            rest.parse().ok()?
        };
        Some(base + offset).filter(|signal| (34..=64).contains(signal))
    };
    names
        .iter()
        .find_map(|(known, number)| (*known == name).then_some(*number))
        .or_else(|| name.parse().ok().filter(|signal| (1..=64).contains(signal)))
        .or_else(realtime)
        .unwrap_or(c::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal_number("SIGQUIT"), 3);
        assert_eq!(signal_number("usr1"), 10);
        assert_eq!(signal_number("9"), 9);
        assert_eq!(signal_number("RTMIN+3"), 37);
        assert_eq!(signal_number(""), 15);
    }
}
