//! Settings: one definition gives the flag, the environment variable and the key of the configuration file.
//!
//! A field `nats_url` of a command's arguments is the flag `--nats-url`, the variable `ROOMREEL_NATS_URL` and the
//! TOML key `nats_url`. What is given nearer wins: flag, then environment, then file, then default. A key or variable
//! that no command knows is refused by name, because a misspelt setting is a setting that silently does nothing.
//!
//! Owns the merging. Does not own the settings (`settings.rs`, and the arguments beside each command).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use roomreel_backends::secret::Secret;

/// What every variable begins with.
pub const ENVIRONMENT_PREFIX: &str = "ROOMREEL_";
/// The one setting that a file cannot hold: where it is.
const FILE_SETTING: &str = "config";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}; give another with --config or ROOMREEL_CONFIG")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not TOML: {reason}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The file holds a key that no command knows.
    #[error(
        "the configuration file {path} has an unknown key {key:?}{}; `roomreel COMMAND --help` lists the known ones",
        nearest_hint(.nearest)
    )]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// A known one that is spelled much alike.
        nearest: Option<String>,
    },
    /// The file holds a value of a kind that no setting has.
    #[error("the configuration file {path}: {key} is a {kind}; give a string, a number, a boolean or a list of them")]
    Kind {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it is.
        kind: &'static str,
    },
    /// A variable with our prefix that no command knows.
    #[error("unknown environment variable {variable}{}; unset it if it is not meant for roomreel", nearest_hint(.nearest))]
    UnknownVariable {
        /// The variable.
        variable: String,
        /// A known one that is spelled much alike.
        nearest: Option<String>,
    },
    /// A secret was given twice.
    #[error("both {name} and {name}_file are set; keep one of them")]
    SecretTwice {
        /// The setting.
        name: &'static str,
    },
    /// A secret's file cannot be read.
    #[error("cannot read {name}_file {path}: {source}")]
    SecretFile {
        /// The setting.
        name: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn nearest_hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default()
}

/// Reads the command line, the environment and the file.
///
/// # Errors
/// [`MatchError::Usage`] for what clap finds (a request for help is such an "error" too), [`MatchError::Config`] for the rest.
pub fn matches(
    command: Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(ArgMatches, Command), MatchError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let known = setting_names(&command);
    let mut command = with_environment(command);
    // Help is answered whatever else is wrong; the path of the file is wanted before all required settings are there.
    let early = command.clone().ignore_errors(true).try_get_matches_from(&arguments);
    let path = match early {
        Ok(early) => file_path(&early),
        Err(help) => return Err(help.into()),
    };
    check_environment(&known, std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
    if let Some(path) = path {
        let values = read_file(&path, &known)?;
        command = with_defaults(command, &values);
    }
    let matches = command.try_get_matches_from_mut(arguments)?;
    Ok((matches, command))
}

/// Why [`matches()`] has no answer.
#[derive(Debug, thiserror::Error)]
pub enum MatchError {
    /// The command line, or a request for help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The environment or the file.
    #[error(transparent)]
    Config(#[from] Error),
}

/// Whether an argument is a setting: everything with a long flag but what clap itself adds.
fn is_setting(argument: &Arg) -> bool {
    argument.get_long().is_some() && !matches!(argument.get_id().as_str(), "help" | "version")
}

/// The names of all settings of all commands.
#[must_use]
pub fn setting_names(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter(|argument| is_setting(argument)).map(|a| a.get_id().to_string());
    own.chain(command.get_subcommands().flat_map(setting_names)).collect()
}

/// The variable of a setting.
#[must_use]
pub fn variable(setting: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", setting.to_uppercase())
}

/// Gives every setting its variable.
fn with_environment(command: Command) -> Command {
    command
        .mut_args(|argument| {
            if !is_setting(&argument) {
                return argument;
            }
            let variable = variable(argument.get_id().as_str());
            argument.env(variable).hide_env_values(true)
        })
        .mut_subcommands(with_environment)
}

/// Makes the file's values the defaults of the settings they name.
fn with_defaults(command: Command, values: &[(String, Vec<String>)]) -> Command {
    command
        .mut_args(|argument| {
            let value = values.iter().find(|(name, _)| is_setting(&argument) && argument.get_id() == name.as_str());
            match value {
                Some((_, value)) => argument.default_values(value.clone()).required(false),
                None => argument,
            }
        })
        .mut_subcommands(|sub| with_defaults(sub, values))
}

fn file_path(matches: &ArgMatches) -> Option<PathBuf> {
    let (_, sub) = matches.subcommand()?;
    sub.try_get_one::<PathBuf>(FILE_SETTING).ok().flatten().cloned()
}

fn check_environment(known: &BTreeSet<String>, names: impl Iterator<Item = String>) -> Result<(), Error> {
    for name in names {
        let Some(setting) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        if !known.contains(&setting.to_lowercase()) || setting.to_uppercase() != setting {
            let nearest = nearest(known, &setting.to_lowercase()).map(|nearest| variable(&nearest));
            return Err(Error::UnknownVariable { variable: name, nearest });
        }
    }
    Ok(())
}

/// The file's settings, each with its values as they would be written on the command line.
fn read_file(path: &Path, known: &BTreeSet<String>) -> Result<Vec<(String, Vec<String>)>, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse_file(path, &text, known)
}

fn parse_file(path: &Path, text: &str, known: &BTreeSet<String>) -> Result<Vec<(String, Vec<String>)>, Error> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        // The parser's own text quotes the line, which may hold a secret.
        Error::Syntax { path: path.to_owned(), reason: format!("line {line}: {}", error.message()) }
    })?;
    table
        .into_iter()
        .map(|(key, value)| {
            if key == FILE_SETTING || !known.contains(&key) {
                let nearest = nearest(known, &key).filter(|nearest| nearest != FILE_SETTING);
                return Err(Error::UnknownKey { path: path.to_owned(), key, nearest });
            }
            let scalar = |value: toml::Value| match value {
                toml::Value::String(text) => Ok(text),
                toml::Value::Integer(number) => Ok(number.to_string()),
                toml::Value::Float(number) => Ok(number.to_string()),
                toml::Value::Boolean(truth) => Ok(truth.to_string()),
                other => Err(Error::Kind { path: path.to_owned(), key: key.clone(), kind: other.type_str() }),
            };
            let values = match value {
                toml::Value::Array(values) => values.into_iter().map(scalar).collect::<Result<_, _>>()?,
                value => vec![scalar(value)?],
            };
            Ok((key, values))
        })
        .collect()
}

/// The known setting that is spelled most like `name`, if any is much like it.
fn nearest(known: &BTreeSet<String>, name: &str) -> Option<String> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(candidate, name), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.clone())
}

/// The secret that was given as a value or in a file; whitespace at a file's end is not part of it.
///
/// # Errors
/// [`Error::SecretTwice`], [`Error::SecretFile`].
pub fn secret(name: &'static str, value: &Option<Secret>, file: &Option<PathBuf>) -> Result<Option<Secret>, Error> {
    match (value, file) {
        (Some(_), Some(_)) => Err(Error::SecretTwice { name }),
        (Some(value), None) => Ok(Some(value.clone())),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|source| Error::SecretFile {
                name,
                path: path.clone(),
                source,
            })?;
            Ok(Some(Secret::new(text.trim_end())))
        }
        (None, None) => Ok(None),
    }
}

/// Reads `4s`, `250ms`, `1.5m`, `2h`.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "" => return Err("it has no unit; write for example 4s, 250ms, 10m or 2h".to_owned()),
        other => return Err(format!("{other:?} is not one of the units ms, s, m, h, d")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "it is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<String> {
        ["nats_url", "s3_bucket", "shards", "config"].map(str::to_owned).into()
    }

    fn parse(text: &str) -> Result<Vec<(String, Vec<String>)>, Error> {
        parse_file(Path::new("roomreel.toml"), text, &known())
    }

    #[test]
    fn a_file_gives_what_a_command_line_would() {
        let values = parse("nats_url = [\"a\", \"b\"]\nshards = 4").expect("valid");
        assert_eq!(
            values,
            [("nats_url".into(), vec!["a".into(), "b".into()]), ("shards".into(), vec!["4".to_owned()])]
        );
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        let message = |text| parse(text).expect_err("refused").to_string();
        assert_eq!(
            message("s3_buckett = 'x'"),
            "the configuration file roomreel.toml has an unknown key \"s3_buckett\"; did you mean \"s3_bucket\"?; \
             `roomreel COMMAND --help` lists the known ones"
        );
        assert!(message("zzz = 1").contains("unknown key \"zzz\"; `roomreel COMMAND --help`"));
        assert!(message("config = 'other.toml'").contains("unknown key"), "a file does not name another");
        assert!(message("shards = { a = 1 }").contains("shards is a table"));
        assert!(message("shards = ").contains("is not TOML: line 1: "));
        let said = message("shards = 4\nnats_url = 'nats://user:hunter2");
        assert!(said.contains("line 2") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn unknown_variables_are_refused() {
        let check = |name: &str| check_environment(&known(), std::iter::once(name.to_owned()));
        assert!(check("PATH").is_ok() && check("ROOMREEL_NATS_URL").is_ok());
        let error = check("ROOMREEL_NATS_URI").expect_err("refused").to_string();
        assert!(error.contains("ROOMREEL_NATS_URI; did you mean \"ROOMREEL_NATS_URL\""), "{error}");
        assert!(check("ROOMREEL_nats_url").is_err(), "spelled otherwise, it would do nothing");
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["4", "s", "4 s", "-1s", "4w", "1e300s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_given_once() {
        let value = Some(Secret::new("hunter2"));
        let both = secret("jwt_secret", &value, &Some("x".into()));
        assert!(matches!(both, Err(Error::SecretTwice { name: "jwt_secret" })));
        let missing = secret("jwt_secret", &None, &Some("/nonexistent/secret".into()));
        assert!(missing.expect_err("no such file").to_string().contains("jwt_secret_file /nonexistent/secret"));
    }
}
