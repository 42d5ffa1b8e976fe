//! `strftime_now`: a local time that the caller gives, in the C locale.

use minijinja::Error;

use super::python::wrong;

/// As in tokenizers_c.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TkcTime {
    pub year: i32,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl TkcTime {
    fn is_leap(&self) -> bool {
        (self.year % 4 == 0 && self.year % 100 != 0) || self.year % 400 == 0
    }

    /// Days of the year before this one.
    fn day_of_year(&self) -> u32 {
        const BEFORE: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap = u32::from(self.month > 2 && self.is_leap());
        BEFORE[self.month as usize - 1] + self.day - 1 + leap
    }

    /// From Sunday on.
    fn weekday(&self) -> usize {
        let before = i64::from(self.year) - 1;
        let days = before * 365 + before.div_euclid(4) - before.div_euclid(100)
            + before.div_euclid(400)
            + i64::from(self.day_of_year());
        (days + 1).rem_euclid(7) as usize
    }

    fn check(&self) -> Result<(), Error> {
        let fits = (1..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 62;
        fits.then_some(())
            .ok_or_else(|| wrong("strftime_now: the time given is none"))
    }

    pub fn format(&self, format: &str) -> Result<String, Error> {
        self.check()?;
        let month = MONTHS[self.month as usize - 1];
        let day = DAYS[self.weekday()];
        let hour = (self.hour + 11) % 12 + 1;
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let bare = directive == Some('-'); // glibc's: without a leading zero
            if bare {
                directive = chars.next();
            }
            let two = |n: u32| {
                if bare {
                    n.to_string()
                } else {
                    format!("{n:02}")
                }
            };
            out.push_str(&match directive {
                Some('Y') => self.year.to_string(),
                Some('y') => two(self.year.rem_euclid(100) as u32),
                Some('m') => two(self.month),
                Some('d') => two(self.day),
                Some('e') if bare => self.day.to_string(),
                Some('e') => format!("{:2}", self.day),
                Some('H') => two(self.hour),
                Some('I') => two(hour),
                Some('M') => two(self.minute),
                Some('S') => two(self.second),
                Some('p') => if self.hour < 12 { "AM" } else { "PM" }.into(),
                Some('B') => month.into(),
                Some('b' | 'h') => month[..3].into(),
                Some('A') => day.into(),
                Some('a') => day[..3].into(),
                Some('w') => self.weekday().to_string(),
                Some('u') => ((self.weekday() + 6) % 7 + 1).to_string(),
                Some('j') if bare => (self.day_of_year() + 1).to_string(),
                Some('j') => format!("{:03}", self.day_of_year() + 1),
                Some('F') => self.format("%Y-%m-%d")?,
                Some('T' | 'X') => self.format("%H:%M:%S")?,
                Some('R') => self.format("%H:%M")?,
                Some('D' | 'x') => self.format("%m/%d/%y")?,
                Some('c') => self.format("%a %b %e %H:%M:%S %Y")?,
                Some('f') => "000000".into(),
                Some('n') => "\n".into(),
                Some('t') => "\t".into(),
                Some('z' | 'Z') => String::new(), // as of a time without a zone
                Some('%') => "%".into(),
                other => {
                    let name = other.map_or_else(String::new, String::from);
                    return Err(wrong(format!("strftime_now: '%{name}' is not known")));
                }
            });
        }
        Ok(out)
    }
}
