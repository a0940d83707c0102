//! Who provides a service?
//!
//! Neutron's clients ask before they choose one. Here is none to choose: overweave provides all of it.

use crate::{
    api::{Api, ApiError, error::respond, finish, handlers::Answer},
    refusal::Refusal,
};
use axum::{
    body::Body,
    extract::State,
    http::{Method, Request, Response, StatusCode},
};
use serde_json::json;

/// GET /v2.0/service-providers
pub(super) async fn list(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let method = request.method().clone();
    let answer: Answer = async {
        let asked = api.read(request).await?;
        if method != Method::GET {
            return Err(ApiError::no_method(&["GET"]));
        }
        if asked.caller.roles.is_empty() {
            return Err(Refusal::denied("rule:get_service_provider").into());
        }
        Ok(respond(StatusCode::OK, &json!({"service_providers": []})))
    }
    .await;
    finish(answer)
}
