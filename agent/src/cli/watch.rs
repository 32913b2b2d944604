//! Output that is refreshed in place, and commands that run until they are interrupted.

use std::{
    io::{self, IsTerminal},
    pin::pin,
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::{failure::Failure, output::print};

/// Show `frame` every second until Ctrl-C: in place on a terminal, else one after another, with a blank line
/// between two if `apart`. Once the daemon has answered, its absence is shown and waited out: sessions live on
/// while it restarts.
pub async fn every_second(
    mut frame: impl AsyncFnMut() -> Result<String, Failure>,
    apart: bool,
) -> Result<(), Failure> {
    let mut interrupted = pin!(interrupted());
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = None;
    let mut answered = false;
    loop {
        tokio::select! {
            biased;
            result = &mut interrupted => return Ok(result?),
            _ = ticks.tick() => {}
        }
        let text = tokio::select! {
            biased;
            result = &mut interrupted => return Ok(result?),
            result = frame() => match result {
                Ok(text) => text,
                Err(Failure::Client(error)) if answered && error.is_unreachable() => format!("{error}\n"),
                Err(failure) => return Err(failure),
            },
        };
        if screen.is_none() && io::stdout().is_terminal() {
            screen = Some(Screen::enter()?);
        }
        match &screen {
            Some(screen) => screen.show(&text)?,
            None if answered && apart => print(&format!("\n{text}"))?,
            None => print(&text)?,
        }
        answered = true;
    }
}

/// Ready when the operator or the system wants the command to end: SIGINT or SIGTERM.
pub async fn interrupted() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The terminal's alternate screen, without wrapping; what was on the terminal comes back on drop.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, Failure> {
        print("\x1b[?1049h\x1b[?7l\x1b[?25l")?;
        Ok(Self)
    }

    fn show(&self, text: &str) -> Result<(), Failure> {
        let height = terminal_size::terminal_size().map_or(24, |(_, height)| usize::from(height.0));
        print(&redrawn(text, height))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = print("\x1b[?25h\x1b[?7h\x1b[?1049l");
    }
}

/// What draws `text` over an earlier one, cut to the terminal's height: each line replaces the one
/// that was there, so nothing flickers.
fn redrawn(text: &str, height: usize) -> String {
    const CLEAR_REST_OF_LINE: &str = "\x1b[K";
    const CLEAR_BELOW: &str = "\x1b[J";
    let lines: Vec<_> = text.lines().collect();
    // The last line of the terminal stays free for the cursor.
    let room = height.saturating_sub(1).max(1);
    let mut drawn = "\x1b[H".to_owned();
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    for line in &lines[..shown] {
        drawn += &format!("{line}{CLEAR_REST_OF_LINE}\r\n");
    }
    if shown < lines.len() {
        drawn += &format!("({} more lines){CLEAR_REST_OF_LINE}\r\n", lines.len() - shown);
    }
    drawn + CLEAR_BELOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let text = "a\nb\nc\nd\n";
        assert_eq!(redrawn(text, 5), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\nc\x1b[K\r\nd\x1b[K\r\n\x1b[J");
        assert_eq!(redrawn(text, 4), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n(2 more lines)\x1b[K\r\n\x1b[J");
        assert_eq!(redrawn(text, 0), "\x1b[H(4 more lines)\x1b[K\r\n\x1b[J");
        assert_eq!(redrawn("", 24), "\x1b[H\x1b[J");
    }

    #[tokio::test]
    async fn an_absent_daemon_is_no_frame() {
        let error = std::io::Error::other("the first frame failed");
        let mut error = Some(Failure::Output(error));
        let result = every_second(async || Err(error.take().unwrap()), true).await;
        assert_eq!(result.unwrap_err().to_string(), "cannot write the output: the first frame failed");
    }
}
