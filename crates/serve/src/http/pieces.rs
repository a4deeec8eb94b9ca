//! `POST /v1/harmonize` and `POST /v1/compose`: a request becomes jobs, and their pieces an answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use kapell_model::decode::melody::choose_parts;
use kapell_model::decode::{
    COMPOSITION_FRAMES_MAX, Composition, Decoded, Piece, Prepared, Request as Setting, Rules, Run, Sampling,
    Search, VOICES,
};
use kapell_model::infer::{Row, Stepper};
use kapell_music::kept::are_parts_kept;
use kapell_music::read::read_score;
use kapell_music::score::{Credit, KeySignature, Score, TICKS_PER_FRAME};
use kapell_music::write::wav::{Instrument, write_wav};
use kapell_music::write::{write_midi, write_musicxml, write_svg};
use serde_json::{Value, json};

use super::accept::{Format, negotiate};
use super::body::{self, Asked};
use super::options::Plan;
use super::{App, header_text, notes};
use crate::error::ApiError;
use crate::model::Loaded;

/// Forms of a piece, in our order of preference.
const FORMATS: [Format; 6] =
    [Format::Json, Format::MusicXml, Format::Midi, Format::Wav, Format::Svg, Format::Tokens];

/// A piece, and what it was made with.
struct Made {
    piece: Piece,
    seed: Option<u64>,
}

pub(crate) async fn harmonize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    in_time(&app, work(&app, request, true)).await
}

pub(crate) async fn compose(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    in_time(&app, work(&app, request, false)).await
}

/// Gives up, and with it the jobs, when a request takes longer than it may.
pub(crate) async fn in_time(
    app: &App,
    work: impl Future<Output = Result<Response, ApiError>>,
) -> Result<Response, ApiError> {
    let limit = app.limits.request_time_max;
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(ApiError::out_of_time(limit.as_secs())))
}

async fn work(app: &Arc<App>, request: Request, harmonize: bool) -> Result<Response, ApiError> {
    let _place = app.place()?;
    let format = negotiate(header_text(request.headers(), &ACCEPT), &FORMATS)?;
    let asked = body::read(app, request).await?;
    let limits = &app.limits;
    let plan = if harmonize { asked.options.harmonize(limits)? } else { asked.options.compose(limits)? };
    if plan.searches.len() > 1 && format != Format::Json {
        return Err(ApiError::option("several variations come as JSON only", "accept application/json"));
    }
    let model = app.model()?;
    let task = if harmonize { melody(app, asked, &plan, &model).await? } else { composition(&plan, &model) };
    let stepper = Stepper::new(Arc::clone(&model.model));
    let runs = plan.searches.iter().enumerate().map(|(at, (search, _))| task.run(at, *search, &stepper));
    let ticket = app.engine.submit(Arc::clone(&model.model), runs.collect());
    let lost = |_| ApiError::unexpected("the piece was lost while it was decoded");
    let decoded = ticket.await.map_err(lost)?.into_iter().collect::<Result<Vec<Decoded>, _>>()?;
    app.compute(move || {
        let made = decoded.into_iter().enumerate().zip(&plan.searches);
        let made = made.map(|((at, decoded), (_, seed))| {
            let mut piece = task.piece(at, decoded);
            if harmonize {
                let name = format!("kapell {}, model {}", env!("CARGO_PKG_VERSION"), model.label);
                piece.score.credits.push(Credit { kind: "arranger".to_owned(), name });
            }
            Made { piece, seed: *seed }
        });
        answer(&made.collect::<Vec<_>>(), &plan, &task, &model, format)
    })
    .await?
}

/// What is to be decoded.
enum Task {
    Melody {
        score: Box<Score>,
        given: [Option<usize>; VOICES],
        prepared: Box<Prepared>,
        remarks: Vec<String>,
    },
    /// One a search.
    Compositions(Vec<Composition>),
}

impl Task {
    fn run(&self, at: usize, search: Search, model: &Stepper) -> Run<Row> {
        match (self, search) {
            (Self::Compositions(all), Search::Sample(sampling)) => all[at].run(model, sampling),
            (Self::Compositions(all), _) => {
                all[at].run(model, Sampling { temperature: 1.0, top_p: 1.0, seed: 0 })
            }
            (Self::Melody { prepared, .. }, search) => prepared.run(model, search),
        }
    }

    fn piece(&self, at: usize, decoded: Decoded) -> Piece {
        match self {
            Self::Melody { score, prepared, .. } => prepared.piece(score, decoded),
            Self::Compositions(all) => all[at].piece(decoded),
        }
    }

    fn remarks(&self) -> &[String] {
        match self {
            Self::Melody { remarks, .. } => remarks,
            Self::Compositions(_) => &[],
        }
    }

    fn is_kept_in(&self, piece: &Score) -> Option<bool> {
        match self {
            Self::Melody { score, given, .. } => Some(are_parts_kept(score, given, piece)),
            Self::Compositions(_) => None,
        }
    }
}

fn composition(plan: &Plan, model: &Loaded) -> Task {
    let one = |(_, seed): &(Search, Option<u64>)| {
        let title = format!("Composition {}", seed.unwrap_or_default());
        Composition::new(&model.vocabulary, COMPOSITION_FRAMES_MAX, &Rules::default(), title)
    };
    Task::Compositions(plan.searches.iter().map(one).collect())
}

/// Reads the score, and what of it is given.
async fn melody(app: &Arc<App>, asked: Asked, plan: &Plan, model: &Loaded) -> Result<Task, ApiError> {
    let Asked { score, name, .. } = asked;
    let Some(bytes) = score else {
        let hint = "send a score as the body, or name a built-in melody: melody=twinkle";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "no-melody", "there is no melody", hint));
    };
    let frames_max = app.limits.frames_max;
    let (vocabulary, plan) = (Arc::clone(&model.vocabulary), plan.clone());
    let read = move || {
        let mut score = read_score(&bytes, &name)?;
        if let (Some(tonality), true) = (plan.tonality, score.key_guessed) {
            score.declare_key(KeySignature { fifths: tonality.fifths, mode: Some(tonality.key.mode) });
        }
        let frames = usize::try_from(score.duration() / TICKS_PER_FRAME).unwrap_or(usize::MAX);
        if frames > frames_max {
            let message = format!("the score has {frames} sixteenths, and {frames_max} are taken here");
            let hint = "cut it into movements";
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "too-long", message, hint));
        }
        let (given, which) = choose_parts(&score, &plan.given, plan.part.as_deref())?;
        let Plan { tonality, phrases, rules, .. } = plan;
        let setting = Setting { score: &score, given, tonality, phrases, rules };
        let prepared = Box::new(Prepared::new(setting, &vocabulary)?);
        let mut remarks: Vec<String> = which.into_iter().chain(score.remarks.iter().cloned()).collect();
        for part in given.iter().flatten().map(|&index| &score.parts[index]) {
            remarks.extend(part.remarks.iter().map(|remark| format!("the melody is {remark}")));
        }
        Ok(Task::Melody { score: Box::new(score), given, prepared, remarks })
    };
    app.compute(read).await?
}

fn answer(
    made: &[Made],
    plan: &Plan,
    task: &Task,
    model: &Loaded,
    format: Format,
) -> Result<Response, ApiError> {
    let likelihood = |made: &&Made| made.piece.log_likelihood;
    let best = made.iter().max_by(|a, b| likelihood(a).total_cmp(&likelihood(b)));
    let Some(best) = best else { return Err(ApiError::unexpected("no piece was made")) };
    let body = match format {
        Format::Json => {
            let object = |made: &Made| object(made, plan, task, model);
            let mut body = object(best);
            if made.len() > 1 {
                body["variations"] = made.iter().map(object).collect();
            }
            body.to_string().into_bytes()
        }
        Format::Tokens => {
            best.piece.tokens.iter().flat_map(|token| format!("{token}\n").into_bytes()).collect()
        }
        _ => write(&best.piece.score, format)?,
    };
    let mut response = response(body, format);
    let mut header = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    };
    header("x-kapell-model", model.label.clone());
    header("x-kapell-nats-per-token", format!("{:.4}", best.piece.nats_per_token()));
    if let Some(seed) = best.seed {
        header("x-kapell-seed", seed.to_string());
    }
    Ok(response)
}

/// A score in the form of a file.
pub(crate) fn write(score: &Score, format: Format) -> Result<Vec<u8>, ApiError> {
    Ok(match format {
        Format::Midi => write_midi(score),
        Format::Wav => write_wav(score, &Instrument::Organ)?,
        Format::Svg => write_svg(score).into_bytes(),
        _ => write_musicxml(score).into_bytes(),
    })
}

pub(crate) fn response(body: Vec<u8>, format: Format) -> Response {
    let mut response =
        ([(CONTENT_TYPE, HeaderValue::from_static(format.media_type()))], body).into_response();
    if format == Format::Svg {
        // A picture's colours are in it; it may do and ask nothing.
        let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// The contract's object for a piece, with the score inside.
fn object(made: &Made, plan: &Plan, task: &Task, model: &Loaded) -> Value {
    let piece = &made.piece;
    let remarks = plan.remarks.iter().chain(task.remarks()).chain(&piece.remarks);
    let remarks: Vec<String> = remarks.map(|remark| remark.replace("--", "")).collect();
    let mut object = notes::of(&piece.score);
    let more = json!({
        "output": null,
        "frames": piece.frames,
        "tokens": piece.tokens.len() - 1,
        "log_likelihood": piece.log_likelihood,
        "nats_per_token": piece.nats_per_token(),
        "melody_kept": task.is_kept_in(&piece.score),
        "search": plan.kind,
        "seed": made.seed,
        "model": model.label,
        "digest": model.digest,
        "transposition": piece.transposition,
        "remarks": remarks,
        "musicxml": write_musicxml(&piece.score),
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}
