//! Conversions between the wire types and the domain's.

use kapell_search::{Config, OptionValue};

use crate::v1;

/// A configuration, for the wire.
#[must_use]
pub fn config_to_wire(config: &Config) -> v1::Config {
    let value = |v: &OptionValue| v1::OptionValue {
        value: Some(match v {
            OptionValue::Int(i) => v1::option_value::Value::Int(*i),
            OptionValue::Float(x) => v1::option_value::Value::Float(*x),
            OptionValue::Bool(b) => v1::option_value::Value::Bool(*b),
            OptionValue::Text(t) => v1::option_value::Value::Text(t.clone()),
        }),
    };
    v1::Config { options: config.options.iter().map(|(k, v)| (k.clone(), value(v))).collect() }
}

/// The options that a message names, as they are: a filter names only some.
///
/// # Errors
/// A sentence naming an option without a value.
pub fn options_from_wire(config: &v1::Config) -> Result<Config, String> {
    let mut options = std::collections::BTreeMap::new();
    for (name, value) in &config.options {
        let value = match &value.value {
            Some(v1::option_value::Value::Int(i)) => OptionValue::Int(*i),
            Some(v1::option_value::Value::Float(x)) => OptionValue::Float(*x),
            Some(v1::option_value::Value::Bool(b)) => OptionValue::Bool(*b),
            Some(v1::option_value::Value::Text(t)) => OptionValue::Text(t.clone()),
            None => return Err(format!("the option \"{name}\" has no value")),
        };
        options.insert(name.clone(), value);
    }
    Ok(Config { options })
}

/// A whole configuration: every option known and within its bounds, a missing one at its default.
///
/// # Errors
/// A sentence about the first option that is not.
pub fn config_from_wire(config: &v1::Config) -> Result<Config, String> {
    options_from_wire(config)?.validate()
}

/// "QUEUED" for a trial's state.
#[must_use]
pub fn trial_state_name(state: v1::TrialState) -> &'static str {
    state.as_str_name().trim_start_matches("TRIAL_STATE_")
}

/// The inverse of [`trial_state_name`].
#[must_use]
pub fn trial_state_from_name(name: &str) -> Option<v1::TrialState> {
    v1::TrialState::from_str_name(&format!("TRIAL_STATE_{name}"))
}

/// "ACTIVE" for a study's state.
#[must_use]
pub fn study_state_name(state: v1::StudyState) -> &'static str {
    state.as_str_name().trim_start_matches("STUDY_STATE_")
}

/// The inverse of [`study_state_name`].
#[must_use]
pub fn study_state_from_name(name: &str) -> Option<v1::StudyState> {
    v1::StudyState::from_str_name(&format!("STUDY_STATE_{name}"))
}

/// "COMPLETE" for an attempt's outcome.
#[must_use]
pub fn outcome_name(outcome: v1::Outcome) -> &'static str {
    outcome.as_str_name().trim_start_matches("OUTCOME_")
}

/// The inverse of [`outcome_name`].
#[must_use]
pub fn outcome_from_name(name: &str) -> Option<v1::Outcome> {
    v1::Outcome::from_str_name(&format!("OUTCOME_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_comes_back_from_the_wire_as_it_was() {
        let config = Config::defaults();
        assert_eq!(config_from_wire(&config_to_wire(&config)), Ok(config));
    }

    #[test]
    fn an_option_without_a_value_or_out_of_bounds_is_refused() {
        let mut wire = config_to_wire(&Config::defaults());
        wire.options.insert("hidden".into(), v1::OptionValue { value: None });
        assert!(config_from_wire(&wire).unwrap_err().contains("hidden"));
        let value = Some(v1::option_value::Value::Int(0));
        wire.options.insert("hidden".into(), v1::OptionValue { value });
        assert!(config_from_wire(&wire).unwrap_err().contains("from 1"));
    }

    #[test]
    fn states_have_the_names_of_the_contract() {
        assert_eq!(trial_state_name(v1::TrialState::Pruned), "PRUNED");
        assert_eq!(trial_state_from_name("PRUNED"), Some(v1::TrialState::Pruned));
        assert_eq!(study_state_from_name("ACTIVE"), Some(v1::StudyState::Active));
        assert_eq!(outcome_from_name("LOST"), Some(v1::Outcome::Lost));
        assert_eq!(trial_state_from_name("LOST"), None);
    }
}
