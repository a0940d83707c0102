//! Why was a change refused?
//!
//! Refusals know nothing of HTTP; `api/error.rs` alone turns them into statuses. The `name` is the
//! reason's fixed word (Neutron's exception names, which clients compare), the text is for people.

/// A rule's no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such object, or none that the caller may see.
    #[error("{kind} {id} could not be found.")]
    Missing {
        /// The kind as its Spec names it (`Network`).
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// There is one, of others: told as if there were none, but where it is usual to say that it is not the caller's.
    #[error("{kind} {id} could not be found.")]
    Foreign {
        /// The kind as its Spec names it.
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// Nothing like that is there, in words of its own.
    #[error("{text}")]
    NoSuch {
        /// The reason's word.
        name: &'static str,
        /// What is not there.
        text: String,
    },
    /// The request contradicts itself or what is there, whatever the state may become.
    #[error("{text}")]
    Invalid {
        /// The reason's word.
        name: &'static str,
        /// What is wrong with which value.
        text: String,
    },
    /// The state is in the way: it may be possible later.
    #[error("{text}")]
    Conflict {
        /// The reason's word.
        name: &'static str,
        /// What is in the way.
        text: String,
    },
    /// It means something, but nothing here can do it.
    #[error("{text}")]
    Unsupported {
        /// What cannot be done.
        text: String,
    },
    /// The caller may see the object, but not do this.
    #[error("{rule} is disallowed by policy")]
    Denied {
        /// The policy that said no.
        rule: String,
    },
    /// The project has as many as it may.
    #[error("Quota exceeded for resources: ['{kind}'].")]
    OverQuota {
        /// The kind of which there are too many.
        kind: &'static str,
    },
    /// If-Match named another revision.
    #[error("Constrained to {wanted}, but current revision is {current}")]
    Stale {
        /// The revision asked for.
        wanted: u64,
        /// The revision that is.
        current: u64,
    },
    /// The change sets off more further changes than one transaction may hold.
    #[error("the request changes more objects than one transaction holds: {limit}")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
}

impl Refusal {
    /// An [`Refusal::Invalid`].
    pub fn invalid(name: &'static str, text: impl Into<String>) -> Self {
        Self::Invalid {
            name,
            text: text.into(),
        }
    }

    /// Invalid input without a word of its own.
    pub fn input(text: impl std::fmt::Display) -> Self {
        Self::invalid(
            "InvalidInput",
            format!("Invalid input for operation: {text}."),
        )
    }

    /// A value of an attribute that is not acceptable in itself.
    pub fn attribute(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::invalid(
            "HTTPBadRequest",
            format!("Invalid input for {name}. Reason: {reason}."),
        )
    }

    /// A [`Refusal::Conflict`].
    pub fn conflict(name: &'static str, text: impl Into<String>) -> Self {
        Self::Conflict {
            name,
            text: text.into(),
        }
    }

    /// A [`Refusal::NoSuch`].
    pub fn no_such(name: &'static str, text: impl Into<String>) -> Self {
        Self::NoSuch {
            name,
            text: text.into(),
        }
    }

    /// A [`Refusal::Missing`].
    pub fn missing(kind: &'static str, id: impl std::fmt::Display) -> Self {
        Self::Missing {
            kind,
            id: id.to_string(),
        }
    }

    /// A [`Refusal::Foreign`].
    pub fn foreign(kind: &'static str, id: impl std::fmt::Display) -> Self {
        Self::Foreign {
            kind,
            id: id.to_string(),
        }
    }

    /// A [`Refusal::Unsupported`].
    pub fn unsupported(text: impl Into<String>) -> Self {
        Self::Unsupported { text: text.into() }
    }

    /// A [`Refusal::Denied`].
    pub fn denied(rule: impl Into<String>) -> Self {
        Self::Denied { rule: rule.into() }
    }
}
