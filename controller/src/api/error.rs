//! Which status does a refusal have?
//!
//! The only file that knows numbers. Bodies are Neutron's: `{"NeutronError": {type, message, detail}}`;
//! a missing or bad token is answered as keystonemiddleware does, `{"error": {code, title, message}}`.

use crate::{
    refusal::Refusal,
    store::{TransactError, Unavailable},
};
use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde_json::json;

/// Of an answer within this process: what was asked for is there, and another's.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfOthers;

/// What a request ends with when it is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// A rule said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No token, or none that is good.
    #[error("The request you have made requires authentication.")]
    Unauthenticated,
    /// No such path.
    #[error("The resource could not be found.")]
    NoPath,
    /// Not with this method.
    #[error(
        "The server could not comply with the request since it is either malformed or otherwise incorrect."
    )]
    NoMethod {
        /// Those that the path has.
        allow: Vec<&'static str>,
    },
    /// Not in this form.
    #[error(
        "The server could not comply with the request since it is either malformed or otherwise incorrect."
    )]
    NotAcceptable,
    /// More bytes than a body may have.
    #[error("the request body exceeds {limit} bytes")]
    BodyTooLarge {
        /// The bound.
        limit: usize,
    },
    /// The body took too long.
    #[error("the request took too long to arrive")]
    Slow,
    /// The store cannot write.
    #[error("the store cannot write now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// No backup can be made now.
    #[error("no backup can be made now: {0}")]
    NoBackup(String),
    /// A secret does not open.
    #[error("the secret cannot be read: {0}")]
    Sealed(String),
}

impl From<TransactError<Refusal>> for ApiError {
    fn from(error: TransactError<Refusal>) -> Self {
        match error {
            TransactError::Refused(refusal) => Self::Refused(refusal),
            TransactError::Unavailable(Unavailable { reason }) => Self::Unavailable {
                reason: reason.to_string(),
            },
        }
    }
}

impl ApiError {
    /// The status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::Missing { .. } | Refusal::Foreign { .. } | Refusal::NoSuch { .. } => {
                    StatusCode::NOT_FOUND
                }
                Refusal::Invalid { .. } => StatusCode::BAD_REQUEST,
                Refusal::Conflict { .. } | Refusal::OverQuota { .. } => StatusCode::CONFLICT,
                Refusal::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
                Refusal::Denied { .. } => StatusCode::FORBIDDEN,
                Refusal::Stale { .. } => StatusCode::PRECONDITION_FAILED,
                Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            },
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::NoPath => StatusCode::NOT_FOUND,
            Self::NoMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable { .. } | Self::NoBackup(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Sealed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The error type's name.
    pub fn name(&self) -> String {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::Missing { kind, .. } | Refusal::Foreign { kind, .. } => {
                    format!("{kind}NotFound")
                }
                Refusal::Invalid { name, .. }
                | Refusal::Conflict { name, .. }
                | Refusal::NoSuch { name, .. } => (*name).to_owned(),
                Refusal::Unsupported { .. } => "UnsupportedOption".to_owned(),
                Refusal::Denied { .. } => "PolicyNotAuthorized".to_owned(),
                Refusal::OverQuota { .. } => "OverQuota".to_owned(),
                Refusal::Stale { .. } => "RevisionNumberConstraintFailed".to_owned(),
                Refusal::TooLarge { .. } => "HTTPRequestEntityTooLarge".to_owned(),
            },
            Self::Unauthenticated => "HTTPUnauthorized".to_owned(),
            Self::NoPath => "HTTPNotFound".to_owned(),
            Self::NoMethod { .. } => "HTTPMethodNotAllowed".to_owned(),
            Self::NotAcceptable => "HTTPNotAcceptable".to_owned(),
            Self::BodyTooLarge { .. } => "HTTPRequestEntityTooLarge".to_owned(),
            Self::Slow => "HTTPRequestTimeout".to_owned(),
            Self::Unavailable { .. } | Self::NoBackup(_) => "ServiceUnavailable".to_owned(),
            Self::Sealed(_) => "InternalServerError".to_owned(),
        }
    }

    /// Not with this method: the path has these.
    pub fn no_method(allow: &[&'static str]) -> Self {
        Self::NoMethod {
            allow: allow.to_vec(),
        }
    }

    /// The answer of the network API.
    pub fn respond(&self) -> Response<Body> {
        if *self == Self::Unauthenticated {
            let mut response = keystone_error(StatusCode::UNAUTHORIZED, &self.to_string());
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Keystone"),
            );
            return response;
        }
        let body = json!({
            "NeutronError": {"type": self.name(), "message": self.to_string(), "detail": ""}
        });
        let mut response = respond(self.status(), &body);
        if let Self::Refused(Refusal::Foreign { .. }) = self {
            response.extensions_mut().insert(OfOthers);
        }
        // The path's methods must be said (RFC 9110 §15.5.6).
        if let Self::NoMethod { allow } = self
            && let Ok(allow) = HeaderValue::from_str(&allow.join(", "))
        {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}

/// An answer with a JSON body.
pub(crate) fn respond(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    let Ok(body) = serde_json::to_vec(body) else {
        unreachable!("answers are made of maps with text keys");
    };
    respond_text(status, body)
}

/// An answer of a JSON text.
pub(crate) fn respond_text(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// An answer without a body.
pub(crate) fn respond_empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An error of the identity API.
pub(crate) fn keystone_error(status: StatusCode, message: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = json!({"error": {"code": status.as_u16(), "title": title, "message": message}});
    respond(status, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_status_and_name() {
        let table: [(ApiError, u16, &str); 18] = [
            (ApiError::Slow, 408, "HTTPRequestTimeout"),
            (ApiError::NoBackup(String::new()), 503, "ServiceUnavailable"),
            (ApiError::Sealed(String::new()), 500, "InternalServerError"),
            (
                Refusal::missing("Network", "x").into(),
                404,
                "NetworkNotFound",
            ),
            (Refusal::no_such("NoThing", "x").into(), 404, "NoThing"),
            (Refusal::input("x").into(), 400, "InvalidInput"),
            (
                Refusal::conflict("NetworkInUse", "x").into(),
                409,
                "NetworkInUse",
            ),
            (Refusal::unsupported("x").into(), 501, "UnsupportedOption"),
            (Refusal::denied("rule:x").into(), 403, "PolicyNotAuthorized"),
            (Refusal::OverQuota { kind: "port" }.into(), 409, "OverQuota"),
            (
                Refusal::Stale {
                    wanted: 1,
                    current: 2,
                }
                .into(),
                412,
                "RevisionNumberConstraintFailed",
            ),
            (
                Refusal::TooLarge { limit: 1 }.into(),
                413,
                "HTTPRequestEntityTooLarge",
            ),
            (ApiError::Unauthenticated, 401, "HTTPUnauthorized"),
            (ApiError::NoPath, 404, "HTTPNotFound"),
            (
                ApiError::no_method(&["GET", "PUT"]),
                405,
                "HTTPMethodNotAllowed",
            ),
            (ApiError::NotAcceptable, 406, "HTTPNotAcceptable"),
            (
                ApiError::BodyTooLarge { limit: 1 },
                413,
                "HTTPRequestEntityTooLarge",
            ),
            (
                ApiError::Unavailable {
                    reason: String::new(),
                },
                503,
                "ServiceUnavailable",
            ),
        ];
        for (error, status, name) in table {
            assert_eq!(error.status().as_u16(), status, "{error:?}");
            assert_eq!(error.name(), name);
            assert_eq!(error.respond().status().as_u16(), status);
        }
    }
}
