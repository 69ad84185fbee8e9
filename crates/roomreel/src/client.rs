//! `roomreel record`, `stop` and `status`: the REST API of a running cluster, from a shell.
//!
//! Owns requests and what is printed of the answers. Does not own the API (docs/api.md).

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use roomreel_backends::secret::{Secret, without_credentials};
use roomreel_shared::id::{PeerId, RecordingId, RoomId};
use roomreel_shared::recording::Recording;
use serde_json::{Value, json};
use time::format_description::well_known::Iso8601;
use time::{Date, OffsetDateTime};

use crate::config::secret;
use crate::output::{self, Lines};

/// A request takes no longer, whatever the server does.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// Most bytes of an answer that are read.
const ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Where the API is and who asks.
#[derive(Debug, Args)]
#[command(next_help_heading = "API")]
pub struct ApiArgs {
    /// Base address of the API.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    api_url: String,
    /// Bearer token (a JWT), where the API asks for one; better in a file.
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    api_token: Option<Secret>,
    /// File that holds the token.
    #[arg(long, value_name = "FILE")]
    api_token_file: Option<PathBuf>,
    /// Print the API's answer as it is.
    #[arg(long)]
    json: bool,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ApiArgs {
    /// The API's answer is to be printed as it is.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }
}

/// Arguments of `roomreel record`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel record standup
  roomreel record standup --record-layout grid --api-url https://recorder.example.com \\
    --api-token-file api-token")]
pub struct RecordArgs {
    /// Id of the room, as its SFU names it.
    room: RoomId,
    /// Layout of the composite. [default: the cluster's]
    #[arg(long, value_name = "NAME")]
    record_layout: Option<String>,
    /// Participant on whose behalf this is asked: its role in the room decides. [default: the token's]
    #[arg(long, value_name = "PEER")]
    requester: Option<PeerId>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Arguments of `roomreel stop`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  roomreel stop 01kaj0v6zq3w8n5x2r7m4c9d1e")]
pub struct StopArgs {
    /// Id of the recording, as `roomreel status` shows it.
    recording: RecordingId,
    #[command(flatten)]
    api: ApiArgs,
}

/// Arguments of `roomreel status`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel status                                 recordings of rooms that opened today (UTC)
  roomreel status --date 2026-01-31
  roomreel status 01kaj0v6zq3w8n5x2r7m4c9d1e      one recording, with its files
  roomreel status --json")]
pub struct StatusArgs {
    /// Id of a recording; without it, all of a day are shown.
    recording: Option<RecordingId>,
    /// Day on which the rooms opened, yyyy-mm-dd in UTC. [default: today]
    #[arg(long, value_name = "DATE", conflicts_with = "recording", value_parser = date)]
    date: Option<Date>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Starts a recording.
///
/// # Errors
/// If the API cannot be reached or refuses.
pub fn record(args: &RecordArgs) -> anyhow::Result<bool> {
    let mut body = json!({});
    if let Some(layout) = &args.record_layout {
        body["composites"] = json!([{ "id": layout, "layout": layout }]);
    }
    if let Some(requester) = &args.requester {
        body["requester"] = json!(requester);
    }
    let answer = Api::new(&args.api)?.post(&["v1", "rooms", args.room.as_str(), "recordings"], &body)?;
    show(&args.api, &answer)
}

/// Stops a recording.
///
/// # Errors
/// As [`record`].
pub fn stop(args: &StopArgs) -> anyhow::Result<bool> {
    let answer = Api::new(&args.api)?.post(&["v1", "recordings", args.recording.as_str(), "stop"], &json!({}))?;
    show(&args.api, &answer)
}

/// Shows one recording, or all of a day.
///
/// # Errors
/// As [`record`].
pub fn status(args: &StatusArgs) -> anyhow::Result<bool> {
    let api = Api::new(&args.api)?;
    let answer = match &args.recording {
        Some(recording) => api.get(&["v1", "recordings", recording.as_str()])?,
        None => {
            let today = OffsetDateTime::now_utc().date();
            api.list(&args.date.unwrap_or(today).to_string())?
        }
    };
    show(&args.api, &answer)
}

fn show(args: &ApiArgs, answer: &Value) -> anyhow::Result<bool> {
    let text = if args.json {
        serde_json::to_string_pretty(answer)? + "\n"
    } else if let Some(list) = answer.get("recordings") {
        table(&serde_json::from_value::<Vec<Recording>>(list.clone()).context("read the API's answer")?)
    } else {
        details(&serde_json::from_value(answer.clone()).context("read the API's answer")?)
    };
    output::print(text)?;
    Ok(true)
}

fn table(recordings: &[Recording]) -> String {
    if recordings.is_empty() {
        return "there is no recording of that day\n".to_owned();
    }
    let mut out = Lines::default();
    out.push(format!("{:<27} {:<14} room", "recording", "state"));
    for recording in recordings {
        out.push(format!("{:<27} {:<14} {}", recording.id, state(recording), recording.room));
    }
    out.into_text()
}

/// The state as the API spells it.
fn state(recording: &Recording) -> String {
    json!(recording.state).as_str().unwrap_or_default().to_owned()
}

fn details(recording: &Recording) -> String {
    let mut out = Lines::default();
    let mut line = |name: &str, value: &str| out.push(format!("{name:<10} {value}"));
    line("recording", recording.id.as_str());
    line("room", recording.room.as_str());
    line("state", &state(recording));
    if !recording.reason.is_empty() {
        line("reason", &recording.reason);
    }
    if let Some(ms) = recording.duration_ms {
        line("length", &format!("{:.1} s", ms as f64 / 1000.0));
    }
    if recording.incomplete {
        line("incomplete", "packets are missing that the publisher accepted; `roomreel inspect` shows which");
    }
    for file in &recording.files {
        line("file", file);
    }
    out.into_text()
}

/// A client of the API.
pub struct Api<'a> {
    agent: ureq::Agent,
    base: &'a str,
    token: Option<Secret>,
}

impl<'a> Api<'a> {
    /// With the address and the token that were given.
    ///
    /// # Errors
    /// If the address is none, or the token cannot be read.
    pub fn new(args: &'a ApiArgs) -> anyhow::Result<Self> {
        let shown = without_credentials(&args.api_url);
        if !["http://", "https://"].iter().any(|scheme| args.api_url.starts_with(scheme)) {
            bail!("api_url {shown} is not the address of an API; write http://HOST:PORT or https://HOST");
        }
        let token = secret("api_token", &args.api_token, &args.api_token_file)?;
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST_LIMIT))
            .http_status_as_error(false)
            .user_agent(concat!("roomreel/", env!("CARGO_PKG_VERSION")));
        Ok(Self { agent: config.build().into(), base: args.api_url.trim_end_matches('/'), token })
    }

    /// Every page of a day's recordings.
    fn list(&self, date: &str) -> anyhow::Result<Value> {
        let mut recordings = Vec::new();
        let mut after = String::new();
        loop {
            let url = format!("{}?date={}{after}", self.url(&["v1", "recordings"]), escape(date));
            let mut page = self.get_url(&url)?;
            if let Some(found) = page["recordings"].as_array_mut() {
                recordings.append(found);
            }
            match page["next"].as_str().map(|next| format!("&after={}", escape(next))) {
                Some(next) if next != after => after = next,
                _ => return Ok(json!({ "recordings": recordings })),
            }
        }
    }

    /// What stands under this path, each part of it as it is.
    ///
    /// # Errors
    /// If the API cannot be reached or refuses.
    pub fn get(&self, path: &[&str]) -> anyhow::Result<Value> {
        self.get_url(&self.url(path))
    }

    fn get_url(&self, url: &str) -> anyhow::Result<Value> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        self.answer(request.call())
    }

    /// Asks for something.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Value> {
        let mut request = self.agent.post(self.url(path)).content_type("application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        self.answer(request.send(body.to_string()))
    }

    fn url(&self, path: &[&str]) -> String {
        let path: Vec<String> = path.iter().map(|part| escape(part)).collect();
        format!("{}/{}", self.base, path.join("/"))
    }

    fn answer(&self, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
        let shown = without_credentials(self.base);
        let mut response = response.with_context(|| {
            format!("cannot reach the API at {shown}; is a coordinator running there? --api-url gives another address")
        })?;
        let status = response.status();
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES)
            .read_to_string()
            .with_context(|| format!("read the answer of {shown}"))?;
        let value: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        if status.is_success() && !value.is_null() {
            return Ok(value);
        }
        let said = value["detail"].as_str().unwrap_or_default();
        let hint = match status.as_u16() {
            401 => "; give a token with --api-token-file",
            _ if value.is_null() => "; is it a roomreel API?",
            _ => "",
        };
        bail!("{shown} answered {status}: {said}{hint}");
    }
}

fn date(text: &str) -> Result<Date, String> {
    Date::parse(text, &Iso8601::DATE).map_err(|_| "it is no day of the form yyyy-mm-dd".to_owned())
}

/// One part of a path: everything but what never has a meaning in one is percent-encoded (RFC 3986 section 2.3).
fn escape(part: &str) -> String {
    part.bytes().fold(String::with_capacity(part.len()), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("writing to a String cannot fail");
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_stays_one_part_of_the_path() {
        assert_eq!(escape("../a b/ü"), "%2E%2E%2Fa%20b%2F%C3%BC");
    }
}
