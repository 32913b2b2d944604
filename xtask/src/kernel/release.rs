//! The kernels that tcpauth is tested on, beside the one that runs here.

use clap::ValueEnum;

/// A kernel of a Debian release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// Debian 12's own
    #[value(name = "6.1")]
    Linux6_1,
    /// Debian 13's own
    #[value(name = "6.12")]
    Linux6_12,
    /// The newest that Debian offers as a backport
    #[value(name = "7.x", alias = "newest")]
    Newest,
    /// The same with PREEMPT_RT, where programs of one CPU preempt each other
    #[value(name = "7.x-rt")]
    NewestRealTime,
}

impl Release {
    /// Those that each run of CI boots, the oldest first.
    pub const ALL: [Self; 3] = [Self::Linux6_1, Self::Linux6_12, Self::Newest];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
            Self::Newest => "7.x",
            Self::NewestRealTime => "7.x-rt",
        }
    }

    /// The Debian suite whose current kernel this is.
    pub fn suite(self) -> &'static str {
        match self {
            Self::Linux6_1 => "bookworm",
            Self::Linux6_12 => "trixie",
            Self::Newest | Self::NewestRealTime => "trixie-backports",
        }
    }

    /// How Debian configures it. The cloud's has few modules and all that virtual machines need, in packages of a fifth of
    /// the usual size.
    pub fn flavor(self) -> &'static str {
        match self {
            Self::Linux6_1 | Self::Linux6_12 | Self::Newest => "cloud-amd64",
            Self::NewestRealTime => "rt-amd64",
        }
    }
}

/// What `--kernel` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One kernel.
    One(Release),
    /// One after the other.
    All,
}

impl Choice {
    /// The kernels chosen.
    pub fn releases(self) -> Vec<Release> {
        match self {
            Self::One(release) => vec![release],
            Self::All => Release::ALL.to_vec(),
        }
    }
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => Release::from_str(text, false).map(Self::One).map_err(|_| {
                let names = Release::value_variants().iter().map(|release| release.name());
                let names = names.collect::<Vec<_>>().join(", ");
                format!("there is no such kernel: choose {names} or all")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_name() {
        for release in Release::value_variants() {
            assert_eq!(release.name().parse(), Ok(Choice::One(*release)));
        }
        assert_eq!("all".parse::<Choice>().unwrap().releases(), Release::ALL);
        assert!("5.10".parse::<Choice>().unwrap_err().contains("6.1, 6.12, 7.x, 7.x-rt or all"));
    }
}
