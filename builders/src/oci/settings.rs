//! What of an image's `config` no runtime could use: refused where it is written, not where a container is to start.

use super::documents::RunAttrs;

/// Signals of Linux that can end a program, without `SIG`.
const SIGNALS: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];
/// The number of the last signal, and how many of them programs may use as they like.
const LAST: u32 = 64;
const REAL_TIME: u32 = 30;

/// What is wrong with user, volumes or signal, in words.
pub(super) fn problem(config: &RunAttrs) -> Option<String> {
    let has_space = |text: &str| text.contains(|c: char| c.is_whitespace() || c.is_control());
    if let Some(user) = &config.user
        && (has_space(user) || user.matches(':').count() > 1)
    {
        return Some(format!(
            "`user` is `{}`; it must be a name or number, or two of them as in `web:adm`",
            user.escape_debug()
        ));
    }
    if let Some(bad) = config.volumes.iter().find(|path| !path.starts_with('/')) {
        return Some(format!(
            "`{bad}` in `volumes` is no absolute path, such as `/{bad}`"
        ));
    }
    let bad = config
        .stop_signal
        .as_ref()
        .filter(|name| !is_signal(name))?;
    Some(format!(
        "`stopSignal` is `{bad}`; it must be a signal, such as `SIGINT`, `SIGRTMIN+3` or a number up to {LAST}"
    ))
}

/// Whether runtimes know a signal: they take it with and without `SIG`, in any case, and as a number.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=LAST).contains(&number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |begin: &str, sign: char| {
        name.strip_prefix(begin).is_some_and(|rest| {
            let offset = rest.strip_prefix(sign).map(str::parse::<u32>);
            rest.is_empty() || matches!(offset, Some(Ok(offset)) if offset <= REAL_TIME)
        })
    };
    SIGNALS.contains(&name) || real_time("RTMIN", '+') || real_time("RTMAX", '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for good in [
            "SIGTERM",
            "sigint",
            "KILL",
            "9",
            "SIGRTMIN",
            "SIGRTMIN+3",
            "RTMAX-30",
        ] {
            assert!(is_signal(good), "{good}");
        }
        for bad in [
            "",
            "SIGNOPE",
            "0",
            "65",
            "SIGRTMIN-1",
            "SIGRTMIN+31",
            "RTMAX-",
        ] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
