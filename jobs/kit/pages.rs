use std::time::Duration;

/// How many rows the next page takes: it follows the time that the last one took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PageSize {
    rows: u32,
    max: u32,
    target: Duration,
}

impl PageSize {
    const START: u32 = 100;

    /// Pages of at most `max` rows (at least one) that should take `target`.
    pub fn new(max: u32, target: Duration) -> Self {
        let max = max.max(1);
        Self { rows: max.min(Self::START), max, target }
    }

    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// A page of `rows` took `elapsed`. The size at most doubles and at most halves at a time. A short last page says
    /// nothing about what a full one costs, unless it was too slow already.
    pub fn took(&mut self, rows: u32, elapsed: Duration) {
        if rows < self.rows && elapsed < self.target {
            return;
        }
        let fits = f64::from(rows) * self.target.as_secs_f64() / elapsed.as_secs_f64().max(1e-6);
        let (least, most) = ((self.rows / 2).max(1), self.rows.saturating_mul(2).min(self.max));
        self.rows = (fits as u32).clamp(least, most.max(least));
    }

    /// A page ran out of time.
    pub fn timed_out(&mut self) {
        self.rows = (self.rows / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_follows_the_time_and_stays_in_bounds() {
        let ms = Duration::from_millis;
        let mut size = PageSize::new(1000, ms(200));
        assert_eq!(size.rows(), 100);
        size.took(100, ms(10));
        assert_eq!(size.rows(), 200, "at most doubles");
        size.took(200, ms(400));
        assert_eq!(size.rows(), 100, "twice too slow: half");
        size.took(100, ms(10_000));
        assert_eq!(size.rows(), 50, "at most halves");
        size.took(7, ms(1));
        assert_eq!(size.rows(), 50, "a short page says nothing");
        size.took(7, ms(900));
        assert_eq!(size.rows(), 25, "unless it was slow");
        for _ in 0..20 {
            size.took(size.rows(), ms(0));
        }
        assert_eq!(size.rows(), 1000);
        for _ in 0..20 {
            size.timed_out();
        }
        assert_eq!(size.rows(), 1);
        size.took(1, ms(50_000));
        assert_eq!(size.rows(), 1);
        assert_eq!(PageSize::new(0, ms(1)).rows(), 1, "a page has at least one row");
    }
}
