//! Dates of the proleptic Gregorian calendar in UTC, from and to numbers: no clock, no time zone.

use std::fmt;

const SECONDS_OF_DAY: i64 = 86_400;
/// Days from the first of March of year 0 to 1970: years are counted from March, so that the leap day is the last of its year.
const TO_1970: i64 = 719_468;
const DAYS_OF_ERA: i64 = 146_097;

/// A second of the calendar.
///
/// ```
/// use sos_formats::calendar::Moment;
/// let moment = Moment::of(951_782_400);
/// assert_eq!((moment.year, moment.month, moment.day), (2000, 2, 29));
/// assert_eq!(moment.to_string(), "2000-02-29T00:00:00Z");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The year; 0 is the one before 1.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// 0 to 23.
    pub hour: i64,
    /// 0 to 59.
    pub minute: i64,
    /// 0 to 59.
    pub second: i64,
}

impl Moment {
    /// The moment so many seconds after the beginning of 1970, or before it.
    #[must_use]
    pub fn of(secs: i64) -> Self {
        let rest = secs.rem_euclid(SECONDS_OF_DAY);
        let shifted = secs.div_euclid(SECONDS_OF_DAY) + TO_1970;
        let (era, of_era) = (
            shifted.div_euclid(DAYS_OF_ERA),
            shifted.rem_euclid(DAYS_OF_ERA),
        );
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }
}

/// As RFC 3339 has it: `2026-07-11T10:16:37Z`.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = self;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

/// Days from 1970 to a date; negative before. `month` is 1 to 12; whether a month has that `day` is the caller's to know.
#[must_use]
pub fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, from_march) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let days = of_era * 365 + of_era / 4 - of_era / 100 + (153 * from_march + 2) / 5 + day - 1;
    era * DAYS_OF_ERA + days - TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_date() {
        // What `date -u -d @N` prints.
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_786_356_062, "2026-08-10T10:01:02Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Moment::of(secs).to_string(), text);
        }
    }

    #[test]
    fn days_and_dates_are_the_same() {
        for days in -800_000..800_000 {
            let date = Moment::of(days * SECONDS_OF_DAY);
            assert_eq!(days_since_1970(date.year, date.month, date.day), days);
        }
    }
}
