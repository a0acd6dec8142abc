//! The two ways in which a descriptor writes a date.

/// A moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Date {
    /// The moment `seconds` after 1970; the format ends with the year 2155.
    pub(super) fn from_unix(seconds: u32) -> Self {
        let (days, rest) = (i64::from(seconds / 86_400), seconds % 86_400);
        // Days are counted from the first of March of year 0, so that leap days come last.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year: year as u16,
            month: month as u8,
            day: day as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// The form of directory records.
    pub(super) fn short(self) -> [u8; 7] {
        let years = (self.year - 1900) as u8;
        [
            years,
            self.month,
            self.day,
            self.hour,
            self.minute,
            self.second,
            0,
        ]
    }

    /// The form of volume descriptors.
    pub(super) fn long(self) -> [u8; 17] {
        let text = format!(
            "{:04}{:02}{:02}{:02}{:02}{:02}00\0",
            self.year, self.month, self.day, self.hour, self.minute, self.second
        );
        let mut date = [0; 17];
        date.copy_from_slice(text.as_bytes());
        date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leap_days_and_centuries_come_out_right() {
        assert_eq!(
            &Date::from_unix(951_782_400).long()[..14],
            b"20000229000000"
        );
        assert_eq!(&Date::from_unix(0).long()[..14], b"19700101000000");
        assert_eq!(
            Date::from_unix(1_470_513_116).short(),
            [116, 8, 6, 19, 51, 56, 0]
        );
    }
}
