//! libpq's password file: `host:port:database:user:password`, first line that fits.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use tracing::warn;

use super::PostgresSettings;
use crate::secret::Secret;
use crate::small_file;

/// The configured password, else what the password file has. Like libpq, a file that others may read is
/// left alone with a warning.
pub(super) fn find(settings: &PostgresSettings) -> Option<Secret> {
    if settings.password.is_some() {
        return settings.password.clone();
    }
    let path = &settings.password_file;
    let file = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(%file, %error, "password file not readable");
            return None;
        }
    };
    if !metadata.is_file() {
        warn!(%file, "password file is not a plain file and was ignored");
        return None;
    }
    if metadata.mode() & 0o077 != 0 {
        warn!(%file, "others may read the password file, so it was ignored; chmod 0600 it");
        return None;
    }
    let text = small_file::read_text(path)
        .map_err(|error| warn!(%file, error = %error.one_line(), "password file not readable"));
    lookup(&text.ok()?, settings)
}

fn lookup(text: &str, settings: &PostgresSettings) -> Option<Secret> {
    let wanted = [&settings.host, &settings.port.to_string(), &settings.database, &settings.user];
    let fits = |(position, field): (usize, &Field)| {
        let socket = position == 0 && settings.is_socket() && field.text == "localhost";
        field.is_any || field.text == *wanted[position] || socket
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|fields| match fields.as_slice() {
        [who @ .., password] if who.len() == wanted.len() && who.iter().enumerate().all(fits) => {
            Some(Secret::new(password.text.clone()))
        }
        _ => None,
    })
}

#[derive(Default)]
struct Field {
    text: String,
    /// A lone `*`, not an escaped one.
    is_any: bool,
}

/// Splits at colons; a backslash takes the next character as it is. The password is all that is left.
fn fields(line: &str) -> Vec<Field> {
    let mut fields = vec![Field::default()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let is_last = fields.len() == 5;
        let field = fields.last_mut().expect("there is always one");
        match c {
            '\\' => field.text.extend(chars.next()),
            ':' if !is_last => fields.push(Field::default()),
            '*' if field.text.is_empty() && !is_last && chars.as_str().starts_with(':') => {
                field.is_any = true;
            }
            c => field.text.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::SslMode;

    fn settings(host: &str) -> PostgresSettings {
        PostgresSettings {
            host: host.into(),
            port: 5432,
            user: "me:too".into(),
            password: None,
            database: "app".into(),
            ssl_mode: SslMode::Disable,
            ssl_files: Default::default(),
            home: "/".into(),
            password_file: "/none".into(),
        }
    }

    #[test]
    fn finds_the_first_line_that_fits() {
        for (text, host, password) in [
            ("h:5432:app:me\\:too:secret", "h", Some("secret")),
            ("# h:5432:app:me\\:too:no\nh:1:app:me\\:too:no\n*:*:*:*:yes", "h", Some("yes")),
            ("h:5432:app:me\\:too:with\\:colon\\\\and:more", "h", Some("with:colon\\and:more")),
            ("localhost:*:*:*:sock", "/var/run/postgresql", Some("sock")),
            ("/var/run/postgresql:*:*:*:sock", "/var/run/postgresql", Some("sock")),
            ("localhost:*:*:*:sock", "127.0.0.1", None),
            ("\\*:*:*:*:no", "h", None),
            ("h:5432:app:me\\:too", "h", None),
            ("", "h", None),
        ] {
            let found = lookup(text, &settings(host));
            assert_eq!(found.as_ref().map(Secret::expose), password, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_password_can_be_written_down(password in "[^\r\n\0]{1,30}", host in "[^\r\n\0#/][^\r\n\0]{0,10}") {
            let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:").replace('*', "\\*");
            let line = format!("{}:*:*:*:{}", escape(&host), escape(&password));
            let found = lookup(&line, &settings(&host));
            proptest::prop_assert_eq!(found.as_ref().map(Secret::expose), Some(password.as_str()));
        }
    }
}
