//! As much of Markdown as our pages use.

/// A fenced block.
pub(crate) struct Block<'a> {
    /// What stands after the fence: `sh`, `console`, `toml`.
    pub kind: &'a str,
    pub lines: Vec<&'a str>,
    /// The heading above it.
    pub under: &'a str,
}

pub(crate) fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let (mut is_inside, mut under) = (false, "");
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(_) if is_inside => is_inside = false,
            Some(kind) => {
                is_inside = true;
                blocks.push(Block { kind, lines: Vec::new(), under });
            }
            None if is_inside => blocks.last_mut().expect("a block was opened").lines.push(line),
            None if line.starts_with('#') => under = line.trim_start_matches('#').trim(),
            None => {}
        }
    }
    assert!(!is_inside, "a fence is not closed below {under:?}");
    blocks
}

/// What stands between backticks in a line or a page, outside of fenced blocks.
pub(crate) fn code_spans(page: &str) -> Vec<&str> {
    let mut is_inside = false;
    let prose = page.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_inside ^= is_fence;
        !is_inside && !is_fence
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn blocks_and_spans_are_told_apart() {
    let page = "# One\nuse `a b` and `c`\n```sh\n`no`\n```\n## Two\n```toml\nx = 1\n```\n";
    assert_eq!(code_spans(page), ["a b", "c"]);
    let found: Vec<_> =
        blocks(page).into_iter().map(|block| (block.under, block.kind, block.lines)).collect();
    assert_eq!(found, [("One", "sh", vec!["`no`"]), ("Two", "toml", vec!["x = 1"])]);
}
