//! Kubernetes quantities: `250m`, `1.5Gi`, `1e3` (apimachinery's `resource.Quantity`).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

/// Parses `text` to billionths of its unit. `None` where it is not a quantity or does not fit.
pub fn parse_nano(text: &str) -> Option<i128> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits: String = format!("{whole}{fraction}");
    let mantissa: i128 = digits.parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (numerator, denominator) = multiplier(suffix)?;
    let product = mantissa.checked_mul(numerator)?.checked_mul(NANO)?;
    let divisor = scale.checked_mul(denominator)?;
    // Kubernetes rounds up what is finer than its smallest unit.
    let nano = product / divisor + i128::from(product % divisor != 0);
    Some(if negative { -nano } else { nano })
}

/// The factor of a suffix, as numerator and denominator.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (NANO * 1_000, 1),
        "P" => (NANO * 1_000_000, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

/// Whole units, rounded up (bytes, pods).
pub fn value(quantity: &Quantity) -> Option<i64> {
    ceil(parse_nano(&quantity.0)?, NANO)
}

/// Thousandths, rounded up (CPU).
pub fn milli(quantity: &Quantity) -> Option<i64> {
    ceil(parse_nano(&quantity.0)?, 1_000_000)
}

fn ceil(nano: i128, unit: i128) -> Option<i64> {
    let rounded = nano.div_euclid(unit) + i128::from(nano.rem_euclid(unit) != 0);
    i64::try_from(rounded).ok()
}

/// Writes whole units (bytes, pods) as [`format_nano`] does.
pub fn format(whole: i64, resource: &str) -> String {
    format_nano(i128::from(whole) * NANO, resource)
}

/// Writes billionths as the shortest text that means the same: memory in powers of two, the rest in
/// thousandths where it has a fraction.
pub fn format_nano(nano: i128, resource: &str) -> String {
    if nano % NANO != 0 {
        // Finer than a thousandth is rounded up, as Kubernetes does.
        let milli = nano.div_euclid(1_000_000) + i128::from(nano.rem_euclid(1_000_000) != 0);
        return if milli % 1000 == 0 {
            (milli / 1000).to_string()
        } else {
            format!("{milli}m")
        };
    }
    let whole = nano / NANO;
    let bytes = ["memory", "storage", "hugepages"]
        .iter()
        .any(|w| resource.contains(w));
    if bytes && whole != 0 {
        for (suffix, shift) in [
            ("Ei", 60),
            ("Pi", 50),
            ("Ti", 40),
            ("Gi", 30),
            ("Mi", 20),
            ("Ki", 10),
        ] {
            if whole % (1_i128 << shift) == 0 {
                return format!("{}{suffix}", whole >> shift);
            }
        }
    }
    whole.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        Quantity(text.to_owned())
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        assert_eq!(milli(&q("250m")), Some(250));
        assert_eq!(milli(&q("1.5")), Some(1500));
        assert_eq!(milli(&q("100u")), Some(1));
        assert_eq!(value(&q("1.5Gi")), Some(1_610_612_736));
        assert_eq!(value(&q("64M")), Some(64_000_000));
        assert_eq!(value(&q("1e3")), Some(1000));
        assert_eq!(value(&q("2E-1")), Some(1));
        assert_eq!(value(&q(".5")), Some(1));
        for bad in ["", "Mi", "1.2.3", "1 Mi", "1KiB", "0x10", "e3"] {
            assert_eq!(value(&q(bad)), None, "{bad}");
        }
    }
    #[test]
    fn quantities_are_written_in_the_shortest_form() {
        for (text, resource, short) in [
            ("1250m", "cpu", "1250m"),
            ("2000m", "cpu", "2"),
            ("1024Ki", "requests.memory", "1Mi"),
            ("1000", "memory", "1000"),
            ("3", "pods", "3"),
            ("0", "memory", "0"),
        ] {
            assert_eq!(format_nano(parse_nano(text).unwrap(), resource), short);
        }
    }
}
