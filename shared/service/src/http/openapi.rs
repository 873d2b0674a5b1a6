//! openapi.json, made of the table of routes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::problem::Sort;
use super::routes::{Access, Route, name_of};
use super::site::Site;
use crate::control::Method;

/// What may come in the way of any request.
const OF_ALL: &[Sort] = &[Sort::BadRequest, Sort::FromElsewhere, Sort::OtherHost, Sort::Failed, Sort::NotNow];
const WITH_TOKEN: &[Sort] = &[Sort::NoToken, Sort::NotUnderstood];
const WITH_BODY: &[Sort] = &[Sort::TookTooLong, Sort::TooLarge, Sort::NotJson];

impl<O: Copy> Site<O> {
    /// `schemas`: by their names, what bodies and answers look like.
    pub fn openapi(&self, title: &str, schemas: &Value) -> Value {
        let mut paths: Map<String, Value> = Map::new();
        for route in self.all_routes() {
            let path = paths.entry(route.path).or_insert_with(|| json!({}));
            path[name_of(route.method).to_lowercase()] = operation(&route, schemas);
        }
        json!({
            "openapi": "3.1.0",
            "info": {"title": title, "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        })
    }
}

fn operation<O>(route: &Route<O>, schemas: &Value) -> Value {
    let of_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let of_path = of_path.map(|name| {
        json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})
    });
    let of_query = route.parameters.iter().map(|parameter| {
        let one: Value = serde_json::from_str(parameter.schema).expect("the table's schemas are JSON");
        let schema = if parameter.is_list { json!({"type": "array", "items": one}) } else { one };
        json!({
            "name": parameter.name, "in": "query", "required": parameter.is_needed, "schema": schema,
            "description": parameter.meaning,
        })
    });
    let mut parameters: Vec<Value> = of_path.chain(of_query).collect();
    if is_action(route) {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            "description": "the same key within a day gives the same execution",
        }));
    }
    let mut described = json!({
        "operationId": route.name, "summary": route.summary, "parameters": parameters, "responses": responses(route),
        "security": match route.access { Access::Open => json!([]), Access::Token => json!([{"token": []}]) },
    });
    if let Some(body) = route.body {
        // An empty body is an empty object: it does where nothing has to be said.
        let is_needed = schemas[body]["required"].as_array().is_some_and(|names| !names.is_empty());
        described["requestBody"] =
            json!({"required": is_needed, "content": {"application/json": {"schema": reference(body)}}});
    }
    described
}

fn is_action<O>(route: &Route<O>) -> bool {
    route.answers.iter().any(|answer| answer.status == 202)
}

fn responses<O>(route: &Route<O>) -> Value {
    let mut by_status: BTreeMap<String, Value> = BTreeMap::new();
    for answer in route.answers {
        let response = by_status
            .entry(answer.status.to_string())
            .or_insert_with(|| json!({"description": "", "content": {}}));
        response["description"] =
            if answer.status == 202 { "it is done soon".into() } else { "the answer".into() };
        response["content"][answer.content_type] = json!({"schema": reference(answer.schema)});
        if answer.status == 202 {
            let location =
                json!({"description": "where the execution is told", "schema": {"type": "string"}});
            response["headers"] = json!({"Location": location});
        }
    }
    let with_token: &[Sort] = if route.access == Access::Token { WITH_TOKEN } else { &[] };
    let with_body: &[Sort] = if route.method == Method::Post { WITH_BODY } else { &[] };
    for sort in [OF_ALL, with_token, with_body, route.problems].into_iter().flatten() {
        let response = by_status
            .entry(sort.status().to_string())
            .or_insert_with(|| json!({"description": sort.title(), "content": {}}));
        response["content"]["application/problem+json"] = json!({"schema": reference("Problem")});
    }
    json!(by_status)
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}
