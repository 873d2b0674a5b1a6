//! Records of changes, as the forge takes them: `data` and `old` are what stands between the braces.

pub fn insert(table: &str, data: &str) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{{data}}}}}"#)
}

pub fn update(table: &str, old: &str, data: &str) -> String {
    format!(r#"{{"table":"{table}","op":"UPDATE","data":{{{data}}},"old_keys":{{{old}}}}}"#)
}

pub fn delete(table: &str, old: &str) -> String {
    format!(r#"{{"table":"{table}","op":"DELETE","old_keys":{{{old}}}}}"#)
}
