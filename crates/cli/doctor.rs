//! `kapell doctor`: what is wrong with a data folder, and mending it.

use kapell_coordinator::doctor::{self, Finding, Report};

use crate::args::{DoctorArgs, Global};
use crate::error::exit;
use crate::{Outcome, output, paths};

pub(crate) async fn run(args: DoctorArgs, global: &Global) -> Outcome {
    let data_dir = paths::data_dir(args.data_dir.as_deref())?;
    let report = doctor::examine(&data_dir, args.fix).await?;
    let code = if report.remaining() == 0 { 0 } else { exit::INTEGRITY };
    if global.json {
        show_json(&report, code);
    } else {
        show(&report, args.fix);
    }
    Ok(code)
}

fn show_json(report: &Report, code: u8) {
    for f in &report.findings {
        output::json(&serde_json::json!({
            "type": "finding", "code": f.code, "subject": f.subject, "problem": f.problem, "what": f.what,
            "remedy": Some(&f.remedy).filter(|r| !r.is_empty()), "fixed": f.fixed,
        }));
    }
    let fixed = report.findings.iter().filter(|f| f.fixed).count();
    output::json(&serde_json::json!({
        "type": "result", "data_dir": report.data_dir, "online": report.online,
        "problems": report.findings.iter().filter(|f| f.problem).count(), "fixed": fixed,
        "blobs": report.blobs, "bytes": report.bytes, "exit_code": code,
    }));
}

fn show(report: &Report, fix: bool) {
    if report.online {
        output::remark("a coordinator holds this folder: looking only");
    }
    report.findings.iter().for_each(|f| output::line(line(f, fix)));
    let checked = format!("{} blobs, {} read", report.blobs, output::bytes(report.bytes));
    let fixed = report.findings.iter().filter(|f| f.fixed).count();
    let remaining = report.remaining();
    output::line(match (remaining, fixed) {
        (0, 0) => format!("all is well ({checked})"),
        (0, _) => format!("{fixed} mended, all is well ({checked})"),
        (_, 0) => format!("{remaining} problems ({checked})"),
        _ => format!("{remaining} problems remain, {fixed} mended ({checked})"),
    });
    if !fix && report.findings.iter().any(|f| !f.remedy.is_empty()) {
        let first = if report.online { "stop the coordinator, then: " } else { "mend it with: " };
        output::remark(format!("{first}kapell doctor --fix --data-dir {}", report.data_dir.display()));
    }
}

/// "blob-orphan  sha256:...  .../blobs/ab/cd has no row; would remove..."
fn line(f: &Finding, fix: bool) -> String {
    let remedy = match (f.remedy.as_str(), f.fixed, fix) {
        ("", ..) if f.problem => "; nothing here can mend it".to_owned(),
        ("", ..) => String::new(),
        (remedy, true, _) => format!("; mended: {remedy}"),
        (remedy, false, true) => format!("; tried: {remedy}"),
        (remedy, false, false) => format!("; --fix {remedy}"),
    };
    format!("{}  {}  {}{remedy}", f.code, f.subject, f.what)
}
