//! Who may do what, where the operator says so?
//!
//! Rights are columns of the resources' tables. A file of oslo.policy's form changes some of them by their names ([`names`]), in its language ([`check`]);
//! for the changed ones the compiled rule answers in place of the table. See ADR 16.
//!
//! # Invariants
//! - Where no file says otherwise nothing of this is asked.
//! - A set of rules refers to rules of its own alone, and never in a circle.
//! - Files that are wrong change nothing.

pub mod check;
mod file;
pub mod names;
#[cfg(test)]
mod tests;

pub use check::{Check, Nothing, OfProject, Target};
pub use file::{Files, PolicyError};

use crate::rules::Caller;
use arc_swap::ArcSwap;
use check::Rules;
use file::{Given, Mark};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// The roles for which the tables judge.
const ROLES: &[&str] = crate::identity::ROLES;

/// Rules, compiled.
#[derive(Default, PartialEq, Eq)]
pub struct Policies {
    rules: HashMap<String, Check>,
    /// Those that a file gave, or that refer to one that it gave.
    changed: HashSet<String>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policies({} changed)", self.changed.len())
    }
}

impl Rules for Policies {
    fn rule(&self, name: &str) -> Option<&Check> {
        self.rules.get(name)
    }
}

impl Policies {
    /// What holds without files.
    fn defaults() -> HashMap<String, Check> {
        let compiled = names::all().into_iter().map(|rule| {
            let check = Check::parse(&rule.text, &names::has_field);
            let check = check.unwrap_or_else(|error| unreachable!("{}: {error}", rule.name));
            (rule.name, check)
        });
        compiled.collect()
    }

    /// The defaults with the rules of files over them.
    ///
    /// # Errors
    /// The first file, line and rule that is wrong.
    pub fn read(files: &Files) -> Result<Self, PolicyError> {
        Self::with(&files.read()?)
    }

    fn with(given: &BTreeMap<String, Given>) -> Result<Self, PolicyError> {
        let mut rules = Self::defaults();
        let listed: HashSet<String> = rules.keys().cloned().collect();
        for (name, rule) in given {
            rules.insert(name.clone(), rule.check.clone());
        }
        for (name, rule) in given {
            let unknown = rule.check.references().into_iter();
            if let Some(other) = unknown
                .into_iter()
                .find(|other| !rules.contains_key(*other))
            {
                return Err(rule.wrong(name, format!("no such rule: {other}")));
            }
            let used = |other: &Given| other.check.references().contains(&name.as_str());
            if !listed.contains(name) && !names::is_attribute(name) && !given.values().any(used) {
                let reason = "no request asks it, and no other rule of the files refers to it";
                return Err(rule.wrong(name, reason));
            }
        }
        for (name, rule) in given {
            if circle(&rules, name) {
                return Err(rule.wrong(name, "it refers to itself"));
            }
        }
        let mut changed: HashSet<String> = given.keys().cloned().collect();
        loop {
            let more: Vec<String> = rules
                .iter()
                .filter(|(name, _)| !changed.contains(*name))
                .filter(|(_, check)| check.references().iter().any(|it| changed.contains(*it)))
                .map(|(name, _)| name.clone())
                .collect();
            if more.is_empty() {
                return Ok(Self { rules, changed });
            }
            changed.extend(more);
        }
    }

    /// The rule that answers in place of the table for a caller.
    pub fn judge(&self, name: &str, caller: &Caller) -> Option<&Check> {
        if self.changed.contains(name) {
            return self.rules.get(name);
        }
        let reading = name.starts_with("get_") && !name.contains(':');
        if reading && !caller.is_usual() {
            return self.rules.get(name);
        }
        None
    }
}

/// Does a rule lead back to itself?
fn circle(rules: &HashMap<String, Check>, start: &str) -> bool {
    let (mut seen, mut open) = (HashSet::new(), vec![start]);
    while let Some(check) = open.pop().and_then(|name| rules.get(name)) {
        for next in check.references() {
            if next == start {
                return true;
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    false
}

impl Caller {
    /// Has it one of the roles that the tables know?
    pub fn is_usual(&self) -> bool {
        self.admin || self.service || self.member || {
            let known = |role: &String| ROLES.contains(&role.as_str());
            self.roles.iter().any(known)
        }
    }

    /// Does a file say what this rule is?
    pub fn is_changed(&self, rule: &str) -> bool {
        let policies = self.policies.as_ref();
        policies.is_some_and(|policies| policies.changed.contains(rule))
    }

    /// What a changed rule says; `None`: it is as built in.
    pub fn told(&self, rule: &str, target: &dyn Target) -> Option<bool> {
        let policies = self.policies.as_ref()?;
        let check = policies.judge(rule, self)?;
        Some(check.holds(policies.as_ref(), self, target))
    }

    /// Is this rule a file's?
    pub fn is_told(&self, rule: &str) -> bool {
        let policies = self.policies.as_ref();
        policies.is_some_and(|policies| policies.judge(rule, self).is_some())
    }

    /// What a changed rule says, or what is built in.
    pub fn may(&self, rule: &str, target: &dyn Target, built_in: bool) -> bool {
        self.told(rule, target).unwrap_or(built_in)
    }
}

/// The rules that hold now.
#[derive(Debug, Default)]
pub struct Board {
    files: Files,
    current: ArcSwap<Policies>,
    marks: Mutex<Vec<Mark>>,
}

/// What holds for roles that no table knows, where there are no files.
static BUILT_IN: LazyLock<Arc<Policies>> = LazyLock::new(|| {
    Arc::new(Policies {
        rules: Policies::defaults(),
        changed: HashSet::new(),
    })
});

impl Board {
    /// The rules of these files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open(files: Files) -> Result<Self, PolicyError> {
        let marks = files.marks();
        let current = if files.is_empty() {
            Arc::clone(&BUILT_IN)
        } else {
            Arc::new(Policies::read(&files)?)
        };
        Ok(Self {
            files,
            current: ArcSwap::new(current),
            marks: Mutex::new(marks),
        })
    }

    /// The rules of a text, for good.
    #[cfg(test)]
    pub(crate) fn of_text(text: &str) -> Result<Self, PolicyError> {
        let given = file::parse(text, std::path::Path::new("policy.yaml"))?;
        Ok(Self {
            current: ArcSwap::new(Arc::new(Policies::with(&given)?)),
            ..Self::default()
        })
    }

    /// Is there anything that may change?
    pub const fn is_fixed(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads the files again if they are not as they were; whether what holds is another now.
    ///
    /// # Errors
    /// What is wrong with them, once for each change: what held before holds on.
    pub fn refresh(&self) -> Result<bool, PolicyError> {
        let marks = self.files.marks();
        {
            let mut known = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            if *known == marks {
                return Ok(false);
            }
            *known = marks;
        }
        self.current.store(Arc::new(Policies::read(&self.files)?));
        Ok(true)
    }

    /// The caller as these rules see it: with them, if they are to be asked at all.
    #[must_use]
    pub fn meet(&self, caller: Arc<Caller>) -> Arc<Caller> {
        let current = self.current.load();
        if current.changed.is_empty() && caller.is_usual() {
            return caller;
        }
        let policies = if current.rules.is_empty() {
            Arc::clone(&BUILT_IN)
        } else {
            Arc::clone(&current)
        };
        let mut met = Caller::clone(&caller);
        met.policies = Some(policies);
        let admin = met.may(
            "context_is_admin",
            &OfProject(&caller.project_id),
            met.admin,
        );
        met.admin = admin;
        met.member |= admin;
        met.service = met.may("service_api", &OfProject(&caller.project_id), met.service);
        Arc::new(met)
    }
}

/// All rules with their defaults, as a file that changes nothing: each line is commented out.
pub fn sample() -> String {
    let mut lines = vec![
        "# Who may do what: all rules with their defaults. To change one, take the mark away before its last line.".to_owned(),
        "# Each attribute of a resource can have a rule of its own besides (create_network:mtu), asked of whoever names or sees it.".to_owned(),
    ];
    for rule in names::all() {
        lines.push(format!("\n# {}", rule.doc));
        lines.extend(rule.requests.iter().map(|request| format!("# {request}")));
        lines.push(format!("#\"{}\": \"{}\"", rule.name, rule.text));
    }
    lines.join("\n")
}
