//! Days and times as text. All are UTC; the calendar itself is jiff's.
//!
//! A TIMESTAMP reads ISO 8601 and RFC 3339 (`2010-01-01T00:00:00.5+01:00`), the same with a space for the `T`, with `/`
//! for `-`, without seconds, or a day alone. Without a zone it is UTC. A number is milliseconds since the epoch.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

/// Microseconds in a day.
pub const DAY_US: i64 = 86_400_000_000;
/// 0001-01-01
const YEAR_1_US: i64 = -719_162 * DAY_US;
/// 10000-01-01
const YEAR_10000_US: i64 = 2_932_897 * DAY_US;

/// Text to microseconds since the epoch.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let mut input = Scanner(text.trim().as_bytes());
    let date = input.date()?;
    let mut us = i64::from(days_of(date)) * DAY_US;
    if input.take(b'T') || input.take(b't') || input.take(b' ') {
        us += input.time()?;
        us -= input.zone_us()?;
    }
    input.0.is_empty().then_some(us)
}

/// Text to days since the epoch.
pub fn parse_date(text: &str) -> Option<i32> {
    let mut input = Scanner(text.trim().as_bytes());
    let date = input.date()?;
    input.0.is_empty().then(|| days_of(date))
}

/// Text to microseconds since midnight.
pub fn parse_time(text: &str) -> Option<i64> {
    let mut input = Scanner(text.trim().as_bytes());
    let us = input.time()?;
    input.0.is_empty().then_some(us)
}

/// `2010-01-01T00:00:00Z`, with a fraction of 3 or 6 digits where there is one. The raw number outside the calendar.
pub fn format_timestamp(us: i64) -> String {
    let mut out = String::with_capacity("2010-01-01T00:00:00.000000Z".len());
    write_timestamp(us, &mut out);
    out
}

/// Appends what [`format_timestamp`] gives.
pub fn write_timestamp(us: i64, out: &mut String) {
    if has_plain_year(us) {
        return write_plain(us, out);
    }
    match civil(us) {
        Some(moment) => out.extend([
            moment.date().to_string().as_str(),
            "T",
            format_time(us.rem_euclid(DAY_US)).as_str(),
            "Z",
        ]),
        None => out.push_str(&us.to_string()),
    }
}

/// Its year is one of 1 to 9999, so that what [`format_timestamp`] gives is read as the same time again.
pub fn has_plain_year(us: i64) -> bool {
    (YEAR_1_US..YEAR_10000_US).contains(&us)
}

/// Each window that a query puts out is written twice, in its row and in its key: so digit by digit.
fn write_plain(us: i64, out: &mut String) {
    let (year, month, day) = year_month_day(us.div_euclid(DAY_US));
    let of_day = us.rem_euclid(DAY_US);
    let (second, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
    for (before, number, count) in [
        ("", year, 4),
        ("-", month, 2),
        ("-", day, 2),
        ("T", second / 3600, 2),
        (":", second / 60 % 60, 2),
        (":", second % 60, 2),
    ] {
        out.push_str(before);
        write_digits(number, count, out);
    }
    match (fraction, fraction % 1_000) {
        (0, _) => {}
        (_, 0) => {
            out.push('.');
            write_digits(fraction / 1_000, 3, out);
        }
        _ => {
            out.push('.');
            write_digits(fraction, 6, out);
        }
    }
    out.push('Z');
}

fn write_digits(number: i64, count: u32, out: &mut String) {
    for place in (0..count).rev() {
        let digit = (number / 10_i64.pow(place) % 10) as u8;
        out.push(char::from(b'0' + digit));
    }
}

/// Of days since the epoch (H. Hinnant, chrono-compatible low-level date algorithms, civil_from_days).
fn year_month_day(days: i64) -> (i64, i64, i64) {
    let from_march = days + 719_468;
    let era = from_march.div_euclid(146_097);
    let day_of_era = from_march.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = match months_since_march {
        0..10 => months_since_march + 3,
        _ => months_since_march - 9,
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// `2010-01-01`
pub fn format_date(days: i32) -> String {
    civil(i64::from(days).saturating_mul(DAY_US)).map_or_else(|| days.to_string(), |moment| moment.date().to_string())
}

/// `23:59:59`, with a fraction of 3 or 6 digits where there is one.
pub fn format_time(us: i64) -> String {
    let (seconds, fraction) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (fraction, fraction % 1_000) {
        (0, _) => clock,
        (_, 0) => format!("{clock}.{:03}", fraction / 1_000),
        _ => format!("{clock}.{fraction:06}"),
    }
}

/// A moment that many months later, at the last day of a shorter month.
pub fn add_months(us: i64, months: i32) -> Option<i64> {
    let moment = civil(us)?
        .checked_add(jiff::Span::new().try_months(months).ok()?)
        .ok()?;
    micros(moment)
}

/// Whole months from one moment to another.
pub fn months_between(from: i64, to: i64) -> Option<i64> {
    let span = civil(from)?.until((jiff::Unit::Month, civil(to)?)).ok()?;
    Some(span.get_months().into())
}

/// As text by a format of strftime. None: there is no such format, or no such time.
pub fn format_by(us: i64, format: &str) -> Option<String> {
    let moment = TimeZone::UTC.to_datetime(Timestamp::from_microsecond(us).ok()?);
    let zoned = moment.to_zoned(TimeZone::UTC).ok()?;
    jiff::fmt::strtime::format(format, &zoned).ok()
}

/// Text to microseconds since the epoch by a format of strptime; without a zone it is UTC.
pub fn parse_by(text: &str, format: &str) -> Option<i64> {
    let parsed = jiff::fmt::strtime::parse(format, text).ok()?;
    if parsed.offset().is_some() {
        return parsed.to_timestamp().ok().map(Timestamp::as_microsecond);
    }
    let day = || parsed.to_date().ok().map(|date| date.to_datetime(Time::midnight()));
    micros(parsed.to_datetime().ok().or_else(day)?)
}

/// Cuts a moment down to the unit that it is in; a week begins on Monday. None: no such unit.
pub fn truncate(unit: &str, us: i64) -> Option<i64> {
    let fixed = |size: i64| Some(us - us.rem_euclid(size));
    let unit = unit.to_ascii_lowercase();
    match unit.strip_suffix('s').unwrap_or(&unit) {
        "microsecond" => Some(us),
        "millisecond" => fixed(1_000),
        "second" => fixed(1_000_000),
        "minute" => fixed(60_000_000),
        "hour" => fixed(3_600_000_000),
        "day" => fixed(DAY_US),
        // The epoch was a Thursday.
        "week" => Some(us - (us + 3 * DAY_US).rem_euclid(7 * DAY_US)),
        "month" => first_of(us, |date| (date.year(), date.month())),
        "quarter" => first_of(us, |date| (date.year(), (date.month() - 1) / 3 * 3 + 1)),
        "year" => first_of(us, |date| (date.year(), 1)),
        _ => None,
    }
}

/// A part of a moment: year, month, day, hour, minute, second, dow (0 = Sunday), doy, epoch (seconds).
pub fn extract(unit: &str, us: i64) -> Option<i64> {
    let moment = civil(us)?;
    match unit.to_ascii_lowercase().as_str() {
        "year" => Some(moment.year().into()),
        "quarter" => Some(i64::from(moment.month() - 1) / 3 + 1),
        "month" => Some(moment.month().into()),
        "day" => Some(moment.day().into()),
        "hour" => Some(moment.hour().into()),
        "minute" => Some(moment.minute().into()),
        "second" => Some(moment.second().into()),
        "dow" => Some(moment.weekday().to_sunday_zero_offset().into()),
        "doy" => Some(moment.day_of_year().into()),
        "epoch" => Some(us.div_euclid(1_000_000)),
        _ => None,
    }
}

fn first_of(us: i64, month: impl Fn(Date) -> (i16, i8)) -> Option<i64> {
    let (year, month) = month(civil(us)?.date());
    micros(Date::new(year, month, 1).ok()?.to_datetime(Time::midnight()))
}

fn civil(us: i64) -> Option<DateTime> {
    Timestamp::from_microsecond(us)
        .ok()
        .map(|moment| TimeZone::UTC.to_datetime(moment))
}

fn micros(moment: DateTime) -> Option<i64> {
    TimeZone::UTC.to_timestamp(moment).ok().map(Timestamp::as_microsecond)
}

fn days_of(date: Date) -> i32 {
    // Since the epoch, proleptic Gregorian: jiff's dates are within ±9999 years, so it fits.
    (date - Date::constant(1970, 1, 1)).get_days()
}

/// Reads text from the left. Written out by hand, because event times are read once per record.
struct Scanner<'a>(&'a [u8]);

impl Scanner<'_> {
    fn take(&mut self, byte: u8) -> bool {
        let there = self.0.first() == Some(&byte);
        if there {
            self.0 = &self.0[1..];
        }
        there
    }

    fn digits<const N: usize>(&mut self) -> Option<i32> {
        let (digits, rest) = self.0.split_first_chunk::<N>()?;
        let number = digits.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i32::from(digit - b'0'))
        })?;
        self.0 = rest;
        Some(number)
    }

    fn date(&mut self) -> Option<Date> {
        let year = self.digits::<4>()?;
        let separator = *self.0.first().filter(|byte| matches!(byte, b'-' | b'/'))?;
        self.take(separator);
        let month = self.digits::<2>()?;
        if !self.take(separator) {
            return None;
        }
        let day = self.digits::<2>()?;
        Date::new(year as i16, month as i8, day as i8).ok()
    }

    fn time(&mut self) -> Option<i64> {
        let hour = self.digits::<2>()?;
        if !self.take(b':') {
            return None;
        }
        let minute = self.digits::<2>()?;
        let second = if self.take(b':') { self.digits::<2>()? } else { 0 };
        // A leap second is the last microsecond of its minute for everyone who counts without them.
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let fraction = if self.take(b'.') || self.take(b',') {
            self.fraction_us()?
        } else {
            0
        };
        Some(i64::from(hour * 3600 + minute * 60 + second) * 1_000_000 + fraction)
    }

    /// One to nine digits, those after the sixth are dropped.
    fn fraction_us(&mut self) -> Option<i64> {
        let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&count) {
            return None;
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
        Some(padded.fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    /// `Z`, `+01:00`, `+0100`, `+01` or nothing.
    fn zone_us(&mut self) -> Option<i64> {
        self.take(b' ');
        if self.0.is_empty() || self.take(b'Z') || self.take(b'z') {
            return Some(0);
        }
        let sign = if self.take(b'+') {
            1
        } else if self.take(b'-') {
            -1
        } else {
            return None;
        };
        let hours = self.digits::<2>()?;
        self.take(b':');
        let minutes = if self.0.is_empty() { 0 } else { self.digits::<2>()? };
        (hours < 24 && minutes < 60).then(|| i64::from(sign * (hours * 60 + minutes)) * 60_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timestamps_are_read_in_all_the_documented_spellings() {
        let new_year = 1_262_304_000_000_000;
        for text in [
            "2010-01-01",
            "2010-01-01T00:00:00Z",
            "2010-01-01 00:00",
            "2010-01-01 00:00:00",
            "2010/01/01 00:00",
            "2010/01/01 00:00:00",
            "2010-01-01T01:00:00+01:00",
            "2009-12-31T19:00:00-0500",
            "2010-01-01T00:00:00.000Z",
            " 2010-01-01 ",
        ] {
            assert_eq!(parse_timestamp(text), Some(new_year), "{text}");
        }
        assert_eq!(
            parse_timestamp("2010-01-01T00:00:00.1234567Z"),
            Some(new_year + 123_456)
        );
        assert_eq!(parse_timestamp("1969-12-31T23:59:59Z"), Some(-1_000_000));
        for wrong in [
            "",
            "2010",
            "2010-13-01",
            "2010-02-30",
            "2010-01/01",
            "2010-01-01T24:00",
            "2010-01-01T00:00:00x",
            "1.5",
        ] {
            assert_eq!(parse_timestamp(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for us in [
            0,
            -1,
            1_262_304_000_000_000,
            1_262_304_000_123_000,
            1_262_304_000_123_456,
            -62_135_596_800_000_000,
        ] {
            assert_eq!(
                parse_timestamp(&format_timestamp(us)),
                Some(us),
                "{}",
                format_timestamp(us)
            );
        }
        assert_eq!(format_timestamp(1_262_304_000_000_000), "2010-01-01T00:00:00Z");
        assert_eq!(format_timestamp(1_262_304_000_500_000), "2010-01-01T00:00:00.500Z");
        assert_eq!(format_date(-1), "1969-12-31");
    }

    #[test]
    fn truncation_and_months_follow_the_calendar() {
        let at = parse_timestamp("2024-05-16T13:45:12.5Z").unwrap();
        let cut = |unit| format_timestamp(truncate(unit, at).unwrap());
        assert_eq!(cut("hour"), "2024-05-16T13:00:00Z");
        assert_eq!(cut("DAY"), "2024-05-16T00:00:00Z");
        assert_eq!(cut("week"), "2024-05-13T00:00:00Z");
        assert_eq!(cut("quarter"), "2024-04-01T00:00:00Z");
        assert_eq!(cut("year"), "2024-01-01T00:00:00Z");
        assert_eq!(truncate("fortnight", at), None);
        let end = parse_timestamp("2024-01-31").unwrap();
        assert_eq!(format_timestamp(add_months(end, 1).unwrap()), "2024-02-29T00:00:00Z");
        assert_eq!(add_months(end, i32::MAX), None);
        assert_eq!(extract("dow", at), Some(4));
    }

    proptest! {
        #[test]
        fn times_are_written_as_the_calendar_has_them(
            us in prop_oneof![any::<i64>(), YEAR_1_US - DAY_US..YEAR_10000_US + DAY_US, 0..2 * DAY_US],
            whole in prop_oneof![Just(1), Just(1_000), Just(1_000_000), Just(DAY_US)],
        ) {
            let us = us / whole * whole;
            let expected = match civil(us) {
                Some(moment) => format!("{}T{}Z", moment.date(), format_time(us.rem_euclid(DAY_US))),
                None => us.to_string(),
            };
            prop_assert_eq!(&format_timestamp(us), &expected);
            if has_plain_year(us) {
                prop_assert_eq!(parse_timestamp(&expected), Some(us));
            }
        }
    }
}
