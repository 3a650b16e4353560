//! Names of devices: `vendor/class=name`.

use std::str::FromStr;

/// A device's name, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no CDI device such as vendor.com/class=name");
        let (kind, device) = text.split_once('=').ok_or_else(bad)?;
        check_kind(kind)?;
        if !is_device(device) {
            return Err(bad());
        }
        Ok(Self(text.to_owned()))
    }
}

/// `vendor/class`.
pub fn check_kind(kind: &str) -> Result<(), String> {
    let good = kind.split_once('/').is_some_and(|(vendor, class)| {
        word(vendor, "_-.") && word(class, "_-") && starts_with_letter(vendor, class)
    });
    if good {
        Ok(())
    } else {
        Err(format!("{kind:?} is no CDI kind such as vendor.com/class"))
    }
}

/// The part after `=`: it may begin with a digit and have colons in it.
pub fn is_device(name: &str) -> bool {
    word(name, "_-.:")
}

fn starts_with_letter(vendor: &str, class: &str) -> bool {
    let letter = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic());
    letter(vendor) && letter(class)
}

/// Letters, digits and those of `between`, which are neither first nor last.
fn word(text: &str, between: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || between.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        for good in [
            "vendor.com/class=dev0",
            "nvidia.com/gpu=0",
            "a/b=GPU-1:2.x",
            "v/c_d=all",
        ] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "=",
            "vendor.com/class",
            "vendor.com=x",
            "1v/c=x",
            "v/1c=x",
            "v/c=",
            "v/c=-x",
            "v/c=x-",
            "v/c/d=x",
            "v-/c=x",
            "v/c.d=x",
            "v/c=a b",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
