//! Single numbers, and what they are to reach.

use serde_json::{Value, json};

use super::table::digits;

/// A number that was measured or follows from such.
#[derive(Clone)]
pub struct Measured {
    pub what: String,
    value: f64,
    unit: &'static str,
    wanted: Option<Wanted>,
}

/// What a number is to reach.
#[derive(Clone)]
struct Wanted {
    limit: Limit,
    /// Not to reach it is an error even without `--strict`.
    is_required: bool,
}

#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Measured {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, wanted: None }
    }

    pub fn at_least(self, limit: f64) -> Self {
        self.wanting(Limit::AtLeast(limit), true)
    }

    pub fn below(self, limit: f64) -> Self {
        self.wanting(Limit::Below(limit), true)
    }

    /// A goal: not to reach it is an error with `--strict` only.
    pub fn aims_at_least(self, limit: f64) -> Self {
        self.wanting(Limit::AtLeast(limit), false)
    }

    /// As [`Measured::aims_at_least`].
    pub fn aims_at_most(self, limit: f64) -> Self {
        self.wanting(Limit::AtMost(limit), false)
    }

    /// Whether it is an error to leave it so.
    pub fn fails(&self, strict: bool) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| (strict || wanted.is_required) && !self.is_kept())
    }

    /// Whether it is to reach anything.
    pub fn is_judged(&self) -> bool {
        self.wanted.is_some()
    }

    pub fn text(&self) -> String {
        let verdict = self.verdict();
        format!("  {:<66} {:>10} {:<8} {verdict}", self.what, digits(self.value), self.unit)
    }

    /// A row of a table in Markdown.
    pub fn markdown(&self) -> String {
        let value = format!("{} {}", digits(self.value), self.unit);
        format!("| {} | {} | {} |", self.what, value.trim(), self.verdict())
    }

    /// An element of `cases`: one round.
    pub fn json(&self, group: &str) -> Value {
        json!({
            "group": group,
            "name": self.what,
            "unit": self.unit,
            "median": self.value,
            "min": self.value,
            "max": self.value,
            "rounds": [self.value],
        })
    }

    fn wanting(self, limit: Limit, is_required: bool) -> Self {
        Self { wanted: Some(Wanted { limit, is_required }), ..self }
    }

    /// Whether it reaches what it is to reach, if anything.
    pub fn is_kept(&self) -> bool {
        match self.wanted.as_ref().map(|wanted| &wanted.limit) {
            None => true,
            Some(Limit::AtLeast(limit)) => self.value >= *limit,
            Some(Limit::AtMost(limit)) => self.value <= *limit,
            Some(Limit::Below(limit)) => self.value < *limit,
        }
    }

    fn verdict(&self) -> String {
        let Some(Wanted { limit, .. }) = &self.wanted else { return String::new() };
        let limit = match limit {
            Limit::AtLeast(limit) => format!("at least {limit}"),
            Limit::AtMost(limit) => format!("at most {limit}"),
            Limit::Below(limit) => format!("below {limit}"),
        };
        format!("{limit}: {}", if self.is_kept() { "kept" } else { "NOT KEPT" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_always_fails_and_a_goal_when_strict() {
        let limit = Measured::new("connect", 1.5, "ms").below(1.0);
        let goal = Measured::new("ratio", 0.8, "").aims_at_least(1.0);
        assert!(limit.fails(false) && limit.fails(true));
        assert!(!goal.fails(false) && goal.fails(true));
        assert!(goal.text().ends_with("at least 1: NOT KEPT"));
        let kept = Measured::new("ratio", 1.03, "").aims_at_most(1.03);
        assert!(!kept.fails(true));
        assert!(kept.markdown().ends_with("| at most 1.03: kept |"));
    }

    #[test]
    fn what_is_not_a_number_keeps_nothing() {
        assert!(Measured::new("ratio", f64::NAN, "").aims_at_least(1.0).fails(true));
        assert!(Measured::new("ratio", f64::NAN, "").aims_at_most(1.0).fails(true));
    }
}
