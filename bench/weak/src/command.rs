//! What `weak-link` reads from its input, one command per line.
//!
//! ```text
//! down rate=500k queue=300ms     changes one direction; also `up` and `both`
//! at 10 down rate=2.5M           the same, 10 seconds after the last `mark`
//! mark                           begins the window that is reported
//! report                         prints the window as one line of JSON
//! ```

use crate::settings::{Change, parse_setting};

/// Which directions a change is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// From the near side, where the server is, to the far side.
    Down,
    /// From the far side to the near side.
    Up,
    /// Both.
    Both,
}

/// A line of the input.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// Changes the link now.
    Set(Which, Change),
    /// Changes the link at this time after the last mark, microseconds.
    At(u64, Which, Change),
    /// Begins a window, and forgets changes that are still to come.
    Mark,
    /// Prints the window.
    Report,
}

impl Command {
    /// Parses a line.
    pub fn parse(line: &str) -> Result<Command, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["mark"] => Ok(Command::Mark),
            ["report"] => Ok(Command::Report),
            ["at", seconds, ref rest @ ..] => {
                let time: Option<f64> = seconds.parse().ok().filter(|time| (0.0..1e6).contains(time));
                let time = time.ok_or_else(|| format!("{seconds:?} is not a time in seconds"))?;
                let (which, change) = parse_change(rest)?;
                Ok(Command::At((time * 1e6) as u64, which, change))
            }
            _ => parse_change(&words).map(|(which, change)| Command::Set(which, change)),
        }
    }
}

fn parse_change(words: &[&str]) -> Result<(Which, Change), String> {
    let (which, settings) = match words {
        ["down", settings @ ..] => (Which::Down, settings),
        ["up", settings @ ..] => (Which::Up, settings),
        ["both", settings @ ..] => (Which::Both, settings),
        _ => return Err(format!("there is no command {:?}", words.join(" "))),
    };
    let change = settings.iter().map(|word| parse_setting(word)).collect::<Result<_, _>>()?;
    Ok((which, change))
}
