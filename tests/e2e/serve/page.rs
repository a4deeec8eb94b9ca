//! The page in a real browser: `page.py` drives a headless Chromium, where there is one.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{served, wait_until_ready};
use crate::house::House;

/// Names that the browser goes by; KAPELL_TEST_CHROMIUM names another.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn browser() -> Option<String> {
    let named = std::env::var("KAPELL_TEST_CHROMIUM").ok();
    let starts = |name: &String| {
        let version =
            Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    named.into_iter().chain(NAMES.map(String::from)).find(starts)
}

#[test]
fn a_musician_drops_a_melody_on_the_page_and_sees_hears_and_takes_the_setting() {
    let Some(browser) = browser() else {
        // Straight to the terminal: a test that passes says nothing otherwise.
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "skipped: the page needs Chromium (apt-get install chromium)");
        return;
    };
    let house = House::new();
    let (_daemon, server) = served(&house, &[]);
    wait_until_ready(&server);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new("python3");
    python.arg("-B").arg(root.join("tests/e2e/serve/page.py")).arg(browser);
    python.arg(format!("http://{}/", server.0)).arg(root.join("examples/melodies/old_hundredth.musicxml"));
    let ran = python.arg(house.path("browser")).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
}
