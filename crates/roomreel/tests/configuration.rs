//! docs/configuration.md lists exactly the settings there are.

use std::fmt::Write as _;
use std::path::Path;

use roomreel::config;

/// Set, the document is written anew instead of compared.
const UPDATE: &str = "UPDATE_DOCS";

/// The document, made of the command line's grammar.
fn document() -> String {
    let mut out = String::from(
        "# Settings\n\n\
         Written by `UPDATE_DOCS=1 cargo test -p roomreel --test configuration` from the commands' own definitions; a test compares.\n\
         A setting `name` is the flag `--name` (with `-` for `_`), the variable `ROOMREEL_NAME` and the key `name` of the TOML file.\n",
    );
    for command in roomreel::command().get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(
            out,
            "\n## roomreel {}\n\n{about}.\n\n| setting | default | meaning |\n|---|---|---|",
            command.get_name()
        )
        .expect("writing to a String cannot fail");
        for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
            let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            let default = if argument.get_action().takes_values() { defaults.join(",") } else { String::new() };
            let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
            writeln!(out, "| `{}` | {default} | {help} |", argument.get_id()).expect("writing to a String cannot fail");
        }
    }
    out
}

#[test]
fn the_document_lists_the_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let expected = document();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &expected).expect("docs/ can be written");
    }
    let actual = std::fs::read_to_string(&path).expect("docs/configuration.md exists");
    assert!(actual == expected, "docs/configuration.md is out of date; run the command in its head");
}

#[test]
fn one_name_means_one_thing() {
    let command = roomreel::command();
    let mut types = std::collections::BTreeMap::new();
    for sub in command.get_subcommands() {
        for argument in sub.get_arguments().filter(|a| a.get_long().is_some()) {
            let long = argument.get_long().expect("filtered").replace('-', "_");
            assert_eq!(argument.get_id().as_str(), long, "flag, variable and key of a setting are one name");
            let kind = argument.get_value_parser().type_id();
            let known = types.entry(long.clone()).or_insert(kind);
            assert_eq!(*known, kind, "{long} of {} is another type than elsewhere", sub.get_name());
        }
    }
    assert!(config::setting_names(&command).contains("nats_url"));
}
