//! Labels of enums: what became of one that is not there any more. Pure.

/// What a label is that one side lacks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Renamed<'a> {
    From(&'a str),
    No,
    Unknown,
}

/// Labels are never dropped and keep their order: those that are gone were renamed. Between two that both sides know,
/// as many new ones as are gone are these, one for one.
pub(crate) fn renamed<'a>(local: &'a [String], source: &[String], label: &str) -> Renamed<'a> {
    let Some(place) = source.iter().position(|known| known == label) else { return Renamed::Unknown };
    let is_shared = |known: &String| local.contains(known);
    let here = |known: Option<&String>| known.and_then(|known| local.iter().position(|here| here == known));
    let (before, after) = (&source[..place], &source[place + 1..]);
    let new_before = before.iter().rev().take_while(|known| !is_shared(known)).count();
    let new_after = after.iter().take_while(|known| !is_shared(known)).count();
    let from = here(before.iter().rfind(|known| is_shared(known))).map_or(0, |place| place + 1);
    let to = here(after.iter().find(|known| is_shared(known))).unwrap_or(local.len());
    let Some(gone) = local.get(from..to).filter(|gone| gone.iter().all(|known| !source.contains(known)))
    else {
        return Renamed::Unknown;
    };
    match gone.len() {
        0 => Renamed::No,
        count if count == new_before + 1 + new_after => Renamed::From(&gone[new_before]),
        _ => Renamed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_label_is_told_from_a_new_one() {
        let labels = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (local, source, label, old) in [
            ("sad fine", "blue fine", "blue", Renamed::From("sad")),
            ("sad fine", "sad well", "well", Renamed::From("fine")),
            ("sad fine", "sad so fine", "so", Renamed::No),
            ("sad fine", "sad fine new", "new", Renamed::No),
            ("sad fine", "blue well", "well", Renamed::From("fine")),
            ("sad fine", "new sad well", "well", Renamed::From("fine")),
            ("sad fine", "new sad well", "new", Renamed::No),
            ("sad fine", "a b fine", "b", Renamed::Unknown),
            ("sad so fine", "sad a b fine", "a", Renamed::Unknown),
            // They have changed places.
            ("sad so fine", "fine new sad", "new", Renamed::Unknown),
        ] {
            assert_eq!(renamed(&labels(local), &labels(source), label), old, "{local} {source}");
        }
    }
}
