//! Progress on stderr: a bar on a terminal, now and then a line elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often there is a line at most.
const LINE_EVERY: Duration = Duration::from_secs(1);

pub enum Progress {
    Bar(ProgressBar),
    Lines { total: u64, last: Instant, said: u64 },
}

impl Progress {
    pub fn new(total: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Progress::Lines { total, last: Instant::now(), said: 0 };
        }
        let bar = ProgressBar::new(total);
        let template = "{spinner} [{bar:28}] {pos:>3}/{len} tasks  {msg}";
        // Were the template wrong, the library's own would do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress::Bar(bar)
    }

    /// `done` tasks are done; `what` is going on.
    pub fn show(&mut self, done: u64, what: &str) {
        match self {
            Progress::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(what.to_owned());
            }
            Progress::Lines { total, last, said } => {
                if *said != done && (last.elapsed() >= LINE_EVERY || done == *total) {
                    eprintln!("{done} of {total} tasks done: {what}");
                    (*last, *said) = (Instant::now(), done);
                }
            }
        }
    }
}

impl Drop for Progress {
    /// Leaves the terminal to what follows, also after an error.
    fn drop(&mut self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
