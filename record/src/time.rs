//! Times of the wall, as RFC 3339 writes them.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// Microseconds since 1970, now.
pub fn wall_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// Year, month and day of a number of days since 1970 (the proleptic Gregorian calendar, in eras of 400 years from March on).
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, of_month)
}

/// `2026-12-01T22:15:32.123Z`
pub fn rfc3339(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let (hour, minute, second, millis) =
        (of_day / 3600, of_day / 60 % 60, of_day % 60, micros.rem_euclid(1_000_000) / 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The same for names of folders: `20261201T221532Z`.
pub fn compact(micros: i64) -> String {
    let text = rfc3339(micros);
    let digits: String = text[..19].chars().filter(|char| !matches!(char, '-' | ':')).collect();
    format!("{digits}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000_000 - 1), "2000-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(951_782_400_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_796_163_332_123_456), "2026-12-01T22:15:32.123Z");
        assert_eq!(compact(1_796_163_332_123_456), "20261201T221532Z");
    }
}
