//! Links between pages lead somewhere, to the heading too.

use std::fs;
use std::path::{Path, PathBuf};

use crate::pages::workspace;

/// A heading, as it is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "shared/Documents"].map(|folder| workspace().join(folder));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder of pages"));
    let paths = files.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

fn is_there(page: &Path, link: &str) -> bool {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.to_owned(),
        file => page.parent().expect("a page lies in a folder").join(file),
    };
    let Ok(text) = fs::read_to_string(&target) else { return target.exists() && heading.is_empty() };
    let headings = text.lines().filter(|line| line.starts_with('#'));
    heading.is_empty()
        || headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|it| it == heading)
}

#[test]
fn links_lead_to_pages_and_headings_that_exist() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("pages are UTF-8");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links.filter(|link| !link.contains("://") && !link.contains(' '));
        dead.extend(
            links.filter(|link| !is_there(&page, link)).map(|link| format!("{}: {link}", page.display())),
        );
    }
    assert!(dead.is_empty(), "{dead:#?}");
    assert_eq!(anchor("Drill: the slot is lost"), "drill-the-slot-is-lost");
}
