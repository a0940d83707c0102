//! Does a rule hold?
//!
//! The language of oslo.policy, compiled: checks of the caller's roles and credentials against values of the target, joined by `and`, `or`, `not` and
//! parentheses, of which `not` binds closest and `or` least.
//!
//! # Cost
//! Compiled once. A check allocates the texts that it compares.
//!
//! # References
//! oslo.policy, "Policy Rule Expressions"; Neutron, "Policy" (field checks and owner checks).

use crate::{resource::boolean, rules::Caller};
use regex::Regex;
use serde_json::Value;
use std::fmt;

/// How deep parentheses and `not` may go.
const DEPTH: usize = 32;

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCheck {
    /// A word is missing.
    #[error("it ends where a check should be")]
    Short,
    /// A word is too many.
    #[error("not expected here: {0}")]
    Unexpected(String),
    /// A parenthesis has no other.
    #[error("a parenthesis is open")]
    Open,
    /// It is nested too deeply.
    #[error("nested deeper than {DEPTH}")]
    Deep,
    /// A word is none of the language's.
    #[error("not KIND:VALUE, @ or !: {0}")]
    Shape(String),
    /// What stands before the colon is no credential and no literal.
    #[error("neither a check, a credential nor a literal: {0}")]
    Kind(String),
    /// A value has a placeholder that is none.
    #[error("not %(NAME)s: {0}")]
    Template(String),
    /// A pattern is none.
    #[error("not a regular expression: {0}")]
    Pattern(String),
    /// A field check is not of the form.
    #[error("not field:RESOURCE:FIELD=VALUE: {0}")]
    Field(String),
    /// A field check names what is not there.
    #[error("no such resource or field: {0}")]
    NoField(String),
    /// Other servers are not asked.
    #[error("rules of other servers are not supported: {0}")]
    Remote(String),
}

/// What a rule is asked about.
pub trait Target {
    /// Its value of this name.
    fn value(&self, name: &str) -> Option<Value>;

    /// The value of a field of a resource that it is, or is on.
    fn field(&self, _resource: &str, name: &str) -> Option<Value> {
        self.value(name)
    }
}

/// A target of which nothing is known.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Target for Nothing {
    fn value(&self, _: &str) -> Option<Value> {
        None
    }
}

/// A target of which the project alone is known.
#[derive(Debug, Clone, Copy)]
pub struct OfProject<'a>(pub &'a str);

impl Target for OfProject<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        matches!(name, "project_id" | "tenant_id").then(|| self.0.into())
    }
}

/// Text with places for values of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(String),
}

/// What the language's implementations print of a value.
fn printed(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

impl Template {
    fn parse(text: &str) -> Result<Self, BadCheck> {
        let wrong = || BadCheck::Template(text.to_owned());
        let (mut pieces, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let named = after.strip_prefix('(').ok_or_else(wrong)?;
            let (name, after) = named.split_once(")s").ok_or_else(wrong)?;
            if name.is_empty() || name.contains(['(', ')', '%']) {
                return Err(wrong());
            }
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Value(name.to_owned()));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// The text; none where the target lacks a value.
    fn fill(&self, target: &dyn Target) -> Option<String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Value(name) => text.push_str(&printed(&target.value(name)?)),
            }
        }
        Some(text)
    }
}

/// What of the caller is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// The user's id.
    User,
    /// The user's name.
    UserName,
    /// The project of the token.
    Project,
    /// Any of the roles.
    Role,
    /// Is it an admin?
    Admin,
    /// Is its project the admins'? All are, as in Keystone without one.
    AdminProject,
    /// The scope of the whole system: no token here has it.
    System,
}

impl Credential {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "user_id" | "user" => Self::User,
            "user_name" => Self::UserName,
            "project_id" | "tenant_id" | "project" | "tenant" => Self::Project,
            "roles" => Self::Role,
            "is_admin" => Self::Admin,
            "is_admin_project" => Self::AdminProject,
            "system_scope" => Self::System,
            _ => return None,
        })
    }

    fn is(self, caller: &Caller, text: &str) -> bool {
        let truth = |is: bool| text == if is { "True" } else { "False" };
        match self {
            Self::User => caller.user_id == text,
            Self::UserName => caller.user_name == text,
            // No project is none that anything belongs to.
            Self::Project => !caller.project_id.is_empty() && caller.project_id == text,
            Self::Role => caller.roles.iter().any(|role| role == text),
            Self::Admin => truth(caller.admin),
            Self::AdminProject => truth(true),
            Self::System => text == "None",
        }
    }
}

/// What a field is compared with.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// A boolean, in any of its forms.
    Bool(bool),
    /// This text.
    Text(String),
    /// A pattern, from the text's start.
    Pattern(Regex),
}

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one == other,
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Pattern(one), Self::Pattern(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Eq for Wanted {}

impl Wanted {
    fn parse(text: &str) -> Result<Self, BadCheck> {
        if let Some(pattern) = text.strip_prefix('~') {
            let whole = Regex::new(&format!("^(?:{pattern})"));
            let wrong = |_| BadCheck::Pattern(pattern.to_owned());
            return whole.map(Self::Pattern).map_err(wrong);
        }
        Ok(match text {
            "True" => Self::Bool(true),
            "False" => Self::Bool(false),
            text => Self::Text(text.to_owned()),
        })
    }

    fn is(&self, value: &Value) -> bool {
        match self {
            Self::Bool(wanted) => boolean(value) == Some(*wanted),
            Self::Text(wanted) => !value.is_null() && printed(value) == *wanted,
            Self::Pattern(pattern) => !value.is_null() && pattern.is_match(&printed(value)),
        }
    }
}

/// A compiled rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Whoever asks.
    Always,
    /// Nobody.
    Never,
    /// Not this.
    Not(Box<Check>),
    /// All of these.
    All(Vec<Check>),
    /// One of these at least.
    Any(Vec<Check>),
    /// The caller has this role, in whatever case.
    Role(Template),
    /// The rule of this name holds.
    Rule(String),
    /// A field of the target's resource has this value.
    Field {
        /// The resource, by either of its words.
        resource: String,
        /// The field.
        name: String,
        /// The value.
        wanted: Wanted,
    },
    /// A word and a value of the target are the same.
    Literal(String, Template),
    /// A credential of the caller and a value of the target are the same.
    Credential(Credential, Template),
}

/// Where rules that refer to others find them.
pub trait Rules {
    /// The rule of this name.
    fn rule(&self, name: &str) -> Option<&Check>;
}

impl Check {
    /// Compiles a text; `known` says which fields a resource has.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str, known: &dyn Fn(&str, &str) -> bool) -> Result<Self, BadCheck> {
        let words = words(text);
        if words.is_empty() {
            return Ok(Self::Always);
        }
        let mut parser = Parser {
            words: words.into_iter().peekable(),
            known,
        };
        let check = parser.any(0)?;
        match parser.words.next() {
            None => Ok(check),
            Some(word) => Err(BadCheck::Unexpected(word.to_string())),
        }
    }

    /// Does it hold of this caller and target?
    pub fn holds(&self, rules: &dyn Rules, caller: &Caller, target: &dyn Target) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Not(check) => !check.holds(rules, caller, target),
            Self::All(checks) => checks.iter().all(|it| it.holds(rules, caller, target)),
            Self::Any(checks) => checks.iter().any(|it| it.holds(rules, caller, target)),
            Self::Role(template) => template.fill(target).is_some_and(|wanted| {
                let roles = caller.roles.iter();
                roles
                    .into_iter()
                    .any(|role| role.eq_ignore_ascii_case(&wanted))
            }),
            Self::Rule(name) => rules
                .rule(name)
                .is_some_and(|check| check.holds(rules, caller, target)),
            Self::Field {
                resource,
                name,
                wanted,
            } => target
                .field(resource, name)
                .is_some_and(|value| wanted.is(&value)),
            Self::Literal(word, template) => {
                template.fill(target).is_some_and(|text| text == *word)
            }
            Self::Credential(credential, template) => template
                .fill(target)
                .is_some_and(|text| credential.is(caller, &text)),
        }
    }

    /// The rules that it refers to.
    pub fn references(&self) -> Vec<&str> {
        match self {
            Self::Rule(name) => vec![name],
            Self::Not(check) => check.references(),
            Self::All(checks) | Self::Any(checks) => {
                checks.iter().flat_map(Self::references).collect()
            }
            Self::Always
            | Self::Never
            | Self::Role(_)
            | Self::Field { .. }
            | Self::Literal(..)
            | Self::Credential(..) => Vec::new(),
        }
    }
}

/// A word of the language.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Open,
    Close,
    And,
    Or,
    Not,
    Check(String),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "(",
            Self::Close => ")",
            Self::And => "and",
            Self::Or => "or",
            Self::Not => "not",
            Self::Check(text) => text,
        })
    }
}

/// Words are parted by spaces; parentheses at their ends are words of their own.
fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for token in text.split_whitespace() {
        let inner = token.trim_start_matches('(');
        words.extend(std::iter::repeat_n(Word::Open, token.len() - inner.len()));
        let clean = inner.trim_end_matches(')');
        match clean.to_ascii_lowercase().as_str() {
            "" => {}
            "and" => words.push(Word::And),
            "or" => words.push(Word::Or),
            "not" => words.push(Word::Not),
            _ => words.push(Word::Check(clean.to_owned())),
        }
        words.extend(std::iter::repeat_n(Word::Close, inner.len() - clean.len()));
    }
    words
}

struct Parser<'a> {
    words: std::iter::Peekable<std::vec::IntoIter<Word>>,
    known: &'a dyn Fn(&str, &str) -> bool,
}

impl Parser<'_> {
    fn any(&mut self, depth: usize) -> Result<Check, BadCheck> {
        let mut checks = vec![self.all(depth)?];
        while self.words.next_if_eq(&Word::Or).is_some() {
            checks.push(self.all(depth)?);
        }
        Ok(single(checks, Check::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Check, BadCheck> {
        let mut checks = vec![self.one(depth)?];
        while self.words.next_if_eq(&Word::And).is_some() {
            checks.push(self.one(depth)?);
        }
        Ok(single(checks, Check::All))
    }

    fn one(&mut self, depth: usize) -> Result<Check, BadCheck> {
        if depth >= DEPTH {
            return Err(BadCheck::Deep);
        }
        match self.words.next().ok_or(BadCheck::Short)? {
            Word::Not => Ok(Check::Not(Box::new(self.one(depth + 1)?))),
            Word::Open => {
                let inner = self.any(depth + 1)?;
                match self.words.next() {
                    Some(Word::Close) => Ok(inner),
                    Some(word) => Err(BadCheck::Unexpected(word.to_string())),
                    None => Err(BadCheck::Open),
                }
            }
            Word::Check(text) => self.check(&text),
            word @ (Word::Close | Word::And | Word::Or) => {
                Err(BadCheck::Unexpected(word.to_string()))
            }
        }
    }

    fn check(&self, text: &str) -> Result<Check, BadCheck> {
        match text {
            "@" => return Ok(Check::Always),
            "!" => return Ok(Check::Never),
            _ => {}
        }
        let shape = || BadCheck::Shape(text.to_owned());
        let (kind, value) = text.split_once(':').ok_or_else(shape)?;
        if kind.is_empty() || value.is_empty() {
            return Err(shape());
        }
        match kind {
            "rule" => Ok(Check::Rule(value.to_owned())),
            "role" => Template::parse(value).map(Check::Role),
            "field" => self.field(value),
            "http" | "https" => Err(BadCheck::Remote(text.to_owned())),
            _ => {
                let template = Template::parse(value)?;
                if let Some(word) = literal(kind) {
                    return Ok(Check::Literal(word, template));
                }
                let credential = Credential::of(kind);
                credential
                    .map(|credential| Check::Credential(credential, template))
                    .ok_or_else(|| BadCheck::Kind(kind.to_owned()))
            }
        }
    }

    fn field(&self, text: &str) -> Result<Check, BadCheck> {
        let shape = || BadCheck::Field(text.to_owned());
        let (resource, rest) = text.split_once(':').ok_or_else(shape)?;
        let (name, value) = rest.split_once('=').ok_or_else(shape)?;
        if !(self.known)(resource, name) {
            return Err(BadCheck::NoField(format!("{resource}:{name}")));
        }
        Ok(Check::Field {
            resource: resource.to_owned(),
            name: name.to_owned(),
            wanted: Wanted::parse(value)?,
        })
    }
}

fn single(mut checks: Vec<Check>, join: impl FnOnce(Vec<Check>) -> Check) -> Check {
    match (checks.len(), checks.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            checks.extend(last);
            join(checks)
        }
    }
}

/// What a literal stands for: quoted text, a number, a boolean or nothing.
fn literal(word: &str) -> Option<String> {
    for quote in ['\'', '"'] {
        let inner = word.strip_prefix(quote);
        if let Some(inner) = inner.and_then(|rest| rest.strip_suffix(quote)) {
            return Some(inner.to_owned());
        }
    }
    let plain = matches!(word, "True" | "False" | "None") || word.parse::<i64>().is_ok();
    plain.then(|| word.to_owned())
}
