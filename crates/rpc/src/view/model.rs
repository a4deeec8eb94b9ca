//! JSON of the registry: `model show`, `model list`, `model history`, `model promote`.

use serde::Serialize;
use serde_json::Value;

use super::trial::AttemptView;
use super::{config_json, finite_of, instant, nonempty, why_null};
use crate::v1;
use crate::v1::promote_response::Decision;

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelView {
    pub name: String,
    pub version: u32,
    pub aliases: Vec<String>,
    /// Of the alias asked for; 0 without one.
    pub generation: u64,
    pub digest: String,
    pub study: String,
    /// The trial's number.
    pub trial: u32,
    pub config: Value,
    pub val_loss: Option<f64>,
    pub test_loss: Option<f64>,
    pub created_at: Option<String>,
    pub files: Vec<FileView>,
    pub lineage: Option<LineageView>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileView {
    pub name: String,
    pub digest: String,
    pub bytes: u64,
}

/// Where a model came from, back to data and code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineageView {
    pub study_id: String,
    pub study: String,
    pub trial: u32,
    pub attempt: u32,
    pub epoch: u32,
    pub checkpoint: String,
    pub corpus: String,
    pub corpus_digest: String,
    pub split_digest: String,
    pub config_hash: String,
    pub program_version: Option<String>,
    pub numerics: Option<String>,
    pub dtype: Option<String>,
    pub attempts: Vec<AttemptView>,
}

/// `model promote`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromoteView {
    /// promoted, unchanged, refused, inconclusive, lost_race, not_ready
    pub decision: &'static str,
    pub exit_code: u8,
    pub name: String,
    pub version: u32,
    pub digest: String,
    pub alias: String,
    pub generation: u64,
    pub previous: Option<PreviousView>,
    pub gates: Vec<GateView>,
    /// How often this model's line looked at the test split; 0 until gates do.
    pub test_uses: u32,
}

/// The version that the alias named before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreviousView {
    pub version: u32,
    pub digest: String,
}

/// What one gate said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateView {
    pub name: String,
    pub passed: bool,
    pub value: Option<f64>,
    pub threshold: Option<f64>,
    pub reason: Option<String>,
}

/// A line of `model history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AliasChangeView {
    pub name: String,
    pub alias: String,
    pub generation: u64,
    pub version: u32,
    pub previous_version: Option<u32>,
    pub at: Option<String>,
    pub actor: Option<String>,
    pub action: String,
    pub reason: Option<String>,
}

impl From<&v1::ModelVersion> for ModelView {
    fn from(model: &v1::ModelVersion) -> Self {
        Self {
            name: model.name.clone(),
            version: model.version,
            aliases: model.aliases.clone(),
            generation: model.generation,
            digest: model.digest.clone(),
            study: model.study.clone(),
            trial: model.trial,
            config: config_json(model.config.as_ref()),
            val_loss: finite_of(model.val_loss),
            test_loss: finite_of(model.test_loss),
            created_at: instant(model.created_at_ms),
            files: model.files.iter().map(Into::into).collect(),
            lineage: model.lineage.as_ref().map(Into::into),
        }
    }
}

impl From<&v1::ModelFile> for FileView {
    fn from(file: &v1::ModelFile) -> Self {
        Self { name: file.name.clone(), digest: file.digest.clone(), bytes: file.bytes }
    }
}

impl From<&v1::Lineage> for LineageView {
    fn from(lineage: &v1::Lineage) -> Self {
        let numerics = |part: fn(&v1::Numerics) -> &str| {
            lineage.numerics.as_ref().and_then(|numerics| nonempty(part(numerics)))
        };
        Self {
            study_id: lineage.study_id.clone(),
            study: lineage.study.clone(),
            trial: lineage.trial,
            attempt: lineage.attempt,
            epoch: lineage.epoch,
            checkpoint: lineage.checkpoint.clone(),
            corpus: lineage.corpus.clone(),
            corpus_digest: lineage.corpus_digest.clone(),
            split_digest: lineage.split_digest.clone(),
            config_hash: lineage.config_hash.clone(),
            program_version: numerics(|n| &n.program_version),
            numerics: numerics(|n| &n.kind),
            dtype: numerics(|n| &n.dtype),
            attempts: lineage.attempts.iter().map(Into::into).collect(),
        }
    }
}

/// How a decision is spelled, and the exit code that it means.
#[must_use]
pub fn decision(decision: Decision) -> (&'static str, u8) {
    match decision {
        Decision::Promoted => ("promoted", 0),
        Decision::Unchanged => ("unchanged", 0),
        Decision::Refused => ("refused", 3),
        Decision::Inconclusive => ("inconclusive", 4),
        Decision::LostRace => ("lost_race", 5),
        Decision::NotReady => ("not_ready", 6),
        Decision::Unspecified => ("unspecified", 1),
    }
}

impl From<&v1::PromoteResponse> for PromoteView {
    fn from(response: &v1::PromoteResponse) -> Self {
        let (decision, exit_code) = decision(response.decision());
        let previous =
            |model: &v1::ModelVersion| PreviousView { version: model.version, digest: model.digest.clone() };
        Self {
            decision,
            exit_code,
            name: response.name.clone(),
            version: response.version,
            digest: response.digest.clone(),
            alias: response.alias.clone(),
            generation: response.generation,
            previous: response.previous.as_ref().map(previous),
            gates: response.gates.iter().map(Into::into).collect(),
            test_uses: 0,
        }
    }
}

impl From<&v1::Gate> for GateView {
    fn from(gate: &v1::Gate) -> Self {
        Self {
            name: gate.name.clone(),
            passed: gate.passed,
            value: finite_of(gate.value),
            threshold: finite_of(gate.threshold),
            reason: nonempty(&gate.reason)
                .or_else(|| why_null(&[("value", gate.value), ("threshold", gate.threshold)])),
        }
    }
}

impl From<&v1::AliasChange> for AliasChangeView {
    fn from(change: &v1::AliasChange) -> Self {
        Self {
            name: change.name.clone(),
            alias: change.alias.clone(),
            generation: change.generation,
            version: change.version,
            previous_version: (change.previous_version > 0).then_some(change.previous_version),
            at: instant(change.at_ms),
            actor: nonempty(&change.actor),
            action: change.action.clone(),
            reason: nonempty(&change.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_its_exit_code_and_gates() {
        let response = v1::PromoteResponse {
            decision: Decision::Refused.into(),
            name: "grid".into(),
            gates: vec![v1::Gate {
                name: "max_val_loss".into(),
                value: Some(0.6),
                threshold: Some(0.5),
                reason: "0.6 is above 0.5".into(),
                passed: false,
            }],
            ..Default::default()
        };
        let json = serde_json::to_value(PromoteView::from(&response)).unwrap();
        for field in ["version", "digest", "alias", "generation", "previous", "test_uses"] {
            assert!(json.get(field).is_some(), "{field} is missing");
        }
        assert_eq!((&json["decision"], &json["exit_code"]), (&"refused".into(), &3.into()));
        assert_eq!(json["gates"][0]["reason"], "0.6 is above 0.5");
    }

    #[test]
    fn a_model_has_the_contracts_fields() {
        let model = v1::ModelVersion { name: "grid".into(), version: 1, ..Default::default() };
        let json = serde_json::to_value(ModelView::from(&model)).unwrap();
        for field in [
            "name",
            "version",
            "aliases",
            "generation",
            "digest",
            "study",
            "trial",
            "config",
            "val_loss",
            "test_loss",
            "created_at",
            "lineage",
        ] {
            assert!(json.get(field).is_some(), "{field} is missing");
        }
    }
}
