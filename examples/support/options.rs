//! The command line of an example.

use std::collections::{BTreeMap, BTreeSet};
use std::process::exit;
use std::str::FromStr;

/// The default of an option that takes no value.
pub const FLAG: &str = "off";

/// The options of an example, each with a default and a line of help: `--name VALUE`, or `--name` alone where the default is [`FLAG`].
pub struct Options {
    values: BTreeMap<&'static str, String>,
    /// Those that the command line names.
    named: BTreeSet<&'static str>,
}

impl Options {
    /// Reads the command line. `--help` prints `about` and the options (name, default, help) and ends; anything unknown is refused.
    pub fn parse(about: &str, options: &[(&'static str, &str, &str)]) -> Self {
        let mut values: BTreeMap<&'static str, String> = options.iter().map(|&(name, default, _)| (name, default.to_owned())).collect();
        let mut named = BTreeSet::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--help" || argument == "-h" {
                help(about, options);
                exit(0);
            }
            let known = options.iter().find(|(name, ..)| argument.strip_prefix("--") == Some(name));
            let Some(&(name, default, _)) = known else {
                refuse(&format!("there is no option `{argument}`"))
            };
            named.insert(name);
            let value = if default == FLAG { Some("on".into()) } else { arguments.next() };
            match value {
                Some(value) => values.insert(name, value),
                None => refuse(&format!("--{name} needs a value")),
            };
        }
        Self { values, named }
    }

    /// Sets options that the command line does not name, where their defaults depend on others.
    pub fn set_defaults(&mut self, defaults: &[(&'static str, &str)]) {
        for &(name, default) in defaults.iter().filter(|(name, _)| !self.named.contains(name)) {
            self.values.insert(name, default.to_owned());
        }
    }

    /// Refuses options that the command line names where they have no effect.
    pub fn refuse_without_effect(&self, names: &[&str], when: &str) {
        if let Some(name) = names.iter().find(|name| self.named.contains(*name)) {
            refuse(&format!("--{name} has no effect {when}"));
        }
    }

    /// The text of an option.
    pub fn text(&self, name: &str) -> &str {
        &self.values[name]
    }

    /// Whether an option without a value was given.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) != FLAG
    }

    /// Whether an option has a text other than none.
    pub fn given(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }

    /// The whole number of an option.
    pub fn number(&self, name: &str) -> usize {
        self.parsed(name, "a whole number")
    }

    /// The whole number of an option that must be at least 1.
    pub fn count(&self, name: &str) -> usize {
        match self.number(name) {
            0 => refuse(&format!("--{name} must be at least 1")),
            count => count,
        }
    }

    /// The number of an option that must be above 0.
    pub fn positive(&self, name: &str) -> f64 {
        let number: f64 = self.parsed(name, "a number");
        if number > 0.0 && number.is_finite() {
            number
        } else {
            refuse(&format!("--{name} must be above 0"))
        }
    }

    /// The number of an option that is at least 0 and less than 1.
    pub fn share(&self, name: &str) -> f64 {
        let number: f64 = self.parsed(name, "a number");
        if (0.0..1.0).contains(&number) {
            number
        } else {
            refuse(&format!("--{name} must be at least 0 and less than 1"))
        }
    }

    /// The seed of a run.
    pub fn seed(&self) -> u64 {
        self.parsed("seed", "a whole number")
    }

    fn parsed<T: FromStr>(&self, name: &str, what: &str) -> T {
        let text = self.text(name);
        text.parse()
            .unwrap_or_else(|_| refuse(&format!("--{name} must be {what}, not `{text}`")))
    }
}

fn help(about: &str, options: &[(&'static str, &str, &str)]) {
    println!("{about}\n\nOptions:");
    for (name, default, help) in options {
        let default = match *default {
            FLAG => String::new(),
            "" => " [default: none]".into(),
            default => format!(" [default: {default}]"),
        };
        println!("  --{name:<14} {help}{default}");
    }
}

fn refuse(message: &str) -> ! {
    eprintln!("{message}; --help lists the options");
    exit(2)
}
