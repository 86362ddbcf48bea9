//! One line on the terminal that says how far a run is. Nothing where standard error is no terminal.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::run::Progress;

/// Cells of the bar.
const WIDTH: usize = 24;
/// Between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);

/// The line.
pub(crate) struct Line {
    is_terminal: bool,
    drawn: Cell<Option<Instant>>,
}

impl Line {
    pub(crate) fn new() -> Line {
        Line { is_terminal: std::io::stderr().is_terminal(), drawn: Cell::new(None) }
    }

    /// Draws it anew, if it was not just drawn.
    pub(crate) fn show(&self, progress: &Progress) {
        let is_due = self.drawn.get().is_none_or(|drawn| drawn.elapsed() >= INTERVAL);
        if self.is_terminal && is_due {
            self.drawn.set(Some(Instant::now()));
            let mut err = std::io::stderr().lock();
            // A terminal that is gone wants no progress.
            let _ = write!(err, "\r\x1b[K{}", text(progress)).and_then(|()| err.flush());
        }
    }

    /// Leaves an empty line.
    pub(crate) fn clear(&self) {
        if self.is_terminal && self.drawn.take().is_some() {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

fn text(progress: &Progress) -> String {
    let full = (progress.share.clamp(0.0, 1.0) * WIDTH as f64) as usize;
    format!("{:<9} [{:=<full$}{:width$}] {}", progress.what, "", "", progress.note, width = WIDTH - full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_and_the_line_keeps_its_shape() {
        let line = |share| text(&Progress { what: "joining".into(), share, note: "n".into() });
        assert_eq!(line(0.5), format!("joining   [{}{}] n", "=".repeat(12), " ".repeat(12)));
        assert!([-1.0, 0.0, 0.99, 1.0, 7.0].into_iter().all(|share| line(share).len() == line(0.5).len()));
    }
}
