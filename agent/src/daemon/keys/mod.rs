//! Keys that change: with time, and by command.
//!
//! - `schedule`: which chains have to be looked at again, and what is new about them.
//! - `follow`: the tick that brings policies and sessions to what the wall clock says.
//! - `notices`: what operators are told of a neighbour's keys.
//! - `show`: which session uses which key.
//! - `change`: keys added, rolled and retired.

pub(super) use follow::INTERVAL;
pub(super) use notices::{closed_reason, notices};
pub(super) use schedule::Schedule;

mod change;
mod follow;
mod notices;
mod schedule;
mod show;
