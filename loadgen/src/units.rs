//! Figures as people read them: three digits that count, and the unit that fits.

use crate::metric::Unit;

/// A figure of that unit, in its base unit.
#[must_use]
pub fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Time => time(value),
        Unit::Bytes => bytes(value),
        Unit::PerSecond => per_second(value),
        Unit::Count if value.fract() == 0.0 => count(value),
        Unit::Count | Unit::Plain => plain(value),
        Unit::Share => share(value),
    }
}

/// ns → `342 ns`, `18.5 µs`, `1.25 ms`, `4.00 s`.
#[must_use]
pub fn time(ns: f64) -> String {
    scaled(ns, &[(1.0, " ns"), (1e3, " µs"), (1e6, " ms"), (1e9, " s")])
}

/// Bytes → `512 B`, `9.80 KiB`, `3.25 MiB`, `1.00 GiB`.
#[must_use]
pub fn bytes(bytes: f64) -> String {
    const KIB: f64 = 1024.0;
    scaled(
        bytes,
        &[
            (1.0, " B"),
            (KIB, " KiB"),
            (KIB * KIB, " MiB"),
            (KIB * KIB * KIB, " GiB"),
        ],
    )
}

/// `950/s`, `52.3 k/s`, `1.25 M/s`.
#[must_use]
pub fn per_second(rate: f64) -> String {
    scaled(rate, &[(1.0, "/s"), (1e3, " k/s"), (1e6, " M/s"), (1e9, " G/s")])
}

/// A number of things, in full, with commas: `1,234,567`.
#[must_use]
pub fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::from(if number < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 0.873 → `87%`, 0.0042 → `0.4%`.
#[must_use]
pub fn share(share: f64) -> String {
    let decimals = usize::from(share > 0.0 && share < 0.0995);
    format!("{:.decimals$}%", share * 100.0)
}

/// How many times as much: `×0.420`, `×12.5`.
#[must_use]
pub fn ratio(ratio: f64) -> String {
    format!("×{}", three_digits(ratio))
}

/// A number without a unit: whole ones in full, others to three digits.
#[must_use]
pub fn plain(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        count(number)
    } else {
        three_digits(number)
    }
}

/// The spread around a median: `±4%`.
#[must_use]
pub fn spread(relative: f64) -> String {
    if relative < 0.000_5 {
        "±0%".to_owned()
    } else if relative < 0.01 {
        format!("±{:.1}%", relative * 100.0)
    } else {
        format!("±{:.0}%", relative * 100.0)
    }
}

/// A figure at a line of a grid: the same, without zeros behind the point.
#[must_use]
pub fn tick(unit: Unit, value: f64) -> String {
    let text = figure(unit, value);
    let number_ends = text
        .find(|char: char| !char.is_ascii_digit() && char != '.' && char != ',')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(number_ends);
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    format!("{number}{rest}")
}

/// From one to another, the unit told once if it is the same: `148 – 159 ns`, `980 ns – 1.02 µs`.
#[must_use]
pub fn range(unit: Unit, from: f64, to: f64) -> String {
    let (from, to) = (figure(unit, from), figure(unit, to));
    let unit_of = |text: &str| {
        text.trim_start_matches(|char: char| char.is_ascii_digit() || ".,-".contains(char))
            .to_owned()
    };
    let from = match unit_of(&from) {
        same if same == unit_of(&to) => from.strip_suffix(&same).unwrap_or(&from),
        _ => &from,
    };
    format!("{from} – {to}")
}

/// In the largest unit in which the number is at least 1.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    // 999.7 would be written as 1000: the next unit says it better.
    let fits = |&&(factor, _): &&(f64, &str)| value.abs() >= factor * 0.999_5;
    let (factor, unit) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    let number = value / factor;
    let text = if *factor == 1.0 && number.fract() == 0.0 {
        format!("{number:.0}")
    } else {
        three_digits(number)
    };
    format!("{text}{unit}")
}

/// Three significant digits, but never fewer than stand before the point.
fn three_digits(number: f64) -> String {
    let size = number.abs();
    let decimals = match size {
        _ if size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.999_5 || size == 0.0 => 2,
        _ if size >= 0.01 => 3,
        _ => 5,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit_that_fits() {
        assert_eq!(time(0.0), "0 ns");
        assert_eq!(time(42.125), "42.1 ns");
        assert_eq!(time(342.4), "342 ns");
        assert_eq!(time(999.7), "1.00 µs");
        assert_eq!(time(18_500.0), "18.5 µs");
        assert_eq!(time(1_250_000.0), "1.25 ms");
        assert_eq!(time(75e9), "75.0 s");
        assert_eq!(bytes(750.0), "750 B");
        assert_eq!(bytes(1_023.9), "1.00 KiB");
        assert_eq!(bytes(9.8 * 1024.0), "9.80 KiB");
        assert_eq!(bytes(120.0 * 1_048_576.0), "120 MiB");
        assert_eq!(per_second(950.0), "950/s");
        assert_eq!(per_second(52_345.0), "52.3 k/s");
        assert_eq!(per_second(1_250_000.0), "1.25 M/s");
        assert_eq!(time(f64::INFINITY), "–");
    }

    #[test]
    fn counts_ratios_and_shares() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(1_000.0), "1,000");
        assert_eq!(count(1_234_567.0), "1,234,567");
        assert_eq!(count(-12_345.0), "-12,345");
        assert_eq!(ratio(0.42), "×0.420");
        assert_eq!(ratio(12.51), "×12.5");
        assert_eq!(ratio(1.0), "×1.00");
        assert_eq!(share(0.873), "87%");
        assert_eq!(
            (share(0.004_2), share(0.0), share(1.02)),
            ("0.4%".into(), "0%".into(), "102%".into())
        );
        assert_eq!(spread(0.037), "±4%");
        assert_eq!(spread(0.004), "±0.4%");
        assert_eq!(plain(3.0), "3");
        assert_eq!(plain(0.123_4), "0.123");
        assert_eq!(figure(Unit::Count, 2.5), "2.50");
        assert_eq!(tick(Unit::Time, 10_000.0), "10 µs");
        assert_eq!(tick(Unit::PerSecond, 250.0), "250/s");
        assert_eq!(tick(Unit::Plain, 0.2), "0.2");
        assert_eq!(tick(Unit::Time, 100.0), "100 ns");
        assert_eq!(range(Unit::Time, 148.0, 159.0), "148 – 159 ns");
        assert_eq!(range(Unit::Time, 980.0, 1_020.0), "980 ns – 1.02 µs");
        assert_eq!(range(Unit::Count, 1_000.0, 2_000.0), "1,000 – 2,000");
        assert_eq!(range(Unit::PerSecond, 5e3, 6e3), "5.00 – 6.00 k/s");
    }
}
