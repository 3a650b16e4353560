//! Signals: CRI's numbers and the image's names → this machine's numbers.

use rrun_cri_api::v1::Signal;

use crate::error::{Error, Result};

/// By name without SIG; the real-time ones are counted from RTMIN (34 in glibc and musl) and
/// RTMAX (64).
const NAMES: [(&str, u32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// The signal that stops a container: CRI's, else the image's, else SIGTERM.
pub fn stop_signal(asked: Signal, image: &str) -> Result<u32> {
    if asked != Signal::RuntimeDefault {
        let name = asked.as_str_name();
        return number(name).ok_or_else(|| Error::invalid(format!("stop_signal {name}")));
    }
    if image.is_empty() {
        return Ok(15);
    }
    number(image)
        .ok_or_else(|| Error::invalid(format!("the image's stop signal {image:?} is no signal")))
}

/// CRI's value of a signal number, for the status.
pub fn to_cri(signal: u32) -> Signal {
    let name = NAMES.iter().find(|(_, number)| *number == signal);
    let name = match name {
        Some((name, _)) => format!("SIG{name}"),
        None if signal == RTMIN => "SIGRTMIN".to_owned(),
        None if signal == RTMAX => "SIGRTMAX".to_owned(),
        None if (RTMIN..50).contains(&signal) => format!("SIGRTMINPLUS{}", signal - RTMIN),
        None if (50..RTMAX).contains(&signal) => format!("SIGRTMAXMINUS{}", RTMAX - signal),
        None => return Signal::RuntimeDefault,
    };
    Signal::from_str_name(&name).unwrap_or(Signal::RuntimeDefault)
}

/// A number, or a name with or without SIG, real-time ones as `RTMIN+3` or `RTMINPLUS3`.
fn number(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = offset(rest, "PLUS", '+')?;
        return (RTMIN + offset <= RTMAX).then_some(RTMIN + offset);
    }
    let offset = offset(name.strip_prefix("RTMAX")?, "MINUS", '-')?;
    (offset <= RTMAX - RTMIN).then(|| RTMAX - offset)
}

fn offset(rest: &str, word: &str, sign: char) -> Option<u32> {
    if rest.is_empty() {
        return Some(0);
    }
    let digits = rest
        .strip_prefix(word)
        .or_else(|| rest.strip_prefix(sign))?;
    digits.parse().ok().filter(|n| *n <= RTMAX - RTMIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_wins_over_the_image() {
        assert_eq!(stop_signal(Signal::Sigusr1, "SIGQUIT").unwrap(), 10);
        assert_eq!(stop_signal(Signal::RuntimeDefault, "SIGQUIT").unwrap(), 3);
        assert_eq!(stop_signal(Signal::RuntimeDefault, "").unwrap(), 15);
        assert_eq!(stop_signal(Signal::RuntimeDefault, "9").unwrap(), 9);
        assert!(stop_signal(Signal::RuntimeDefault, "SIGNAL").is_err());
        assert!(stop_signal(Signal::RuntimeDefault, "65").is_err());
    }

    #[test]
    fn real_time_signals_in_every_spelling() {
        for (text, wanted) in [("SIGRTMIN+3", 37), ("RTMAX-14", 50), ("SIGRTMAX", 64)] {
            assert_eq!(stop_signal(Signal::RuntimeDefault, text).unwrap(), wanted);
        }
        assert_eq!(stop_signal(Signal::Sigrtminplus15, "").unwrap(), 49);
        assert_eq!(stop_signal(Signal::Sigrtmaxminus1, "").unwrap(), 63);
    }

    #[test]
    fn every_number_comes_back() {
        for signal in (1..=31).chain(34..=64) {
            let cri = to_cri(signal);
            assert_eq!(stop_signal(cri, "").unwrap(), signal, "{cri:?}");
        }
    }
}
