//! Where an archive on object storage is, and with whose keys: `archive_url` and what belongs to it, and what the tools of
//! the makers of S3 keep in variables and files, which is used where our own settings say nothing.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use syncdata_formats::error::{Context as _, Error, Kind, Result};

use super::{Places, Secret};
use crate::secret::refuse_if_exposed;
use crate::small_file;

const REGION: &str = "us-east-1";

/// A place in a bucket.
#[derive(Clone, Debug)]
pub struct S3Settings {
    pub place: BucketPlace,
    pub endpoint: Endpoint,
    pub region: String,
    pub keys: S3KeySource,
}

/// `s3://bucket/prefix`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketPlace {
    pub bucket: String,
    /// Without slashes at its ends; empty: all of the bucket is the archive.
    pub prefix: String,
}

impl BucketPlace {
    /// `None`: it is none.
    pub fn read(text: &str) -> Option<BucketPlace> {
        let (bucket, prefix) =
            text.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))?;
        let prefix = prefix.trim_end_matches('/');
        let is_bucket = (3..=63).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
        let is_plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let is_prefix = prefix.is_empty() || prefix.len() <= 300 && prefix.split('/').all(is_plain);
        (is_bucket && is_prefix).then(|| BucketPlace { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for BucketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_str() {
            "" => write!(f, "s3://{}", self.bucket),
            prefix => write!(f, "s3://{}/{prefix}", self.bucket),
        }
    }
}

/// Where the store answers: `https://s3.eu-central-1.amazonaws.com`, `http://127.0.0.1:8333`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// Host and port as they were written.
    authority: String,
}

impl Endpoint {
    /// `None`: it is none.
    pub fn read(text: &str) -> Option<Endpoint> {
        let uri: hyper::Uri = text.parse().ok()?;
        let (is_tls, usual) = match uri.scheme_str()? {
            "https" => (true, 443),
            "http" => (false, 80),
            _ => return None,
        };
        let authority = uri.authority()?;
        let is_plain = uri.path() == "/" && uri.query().is_none() && !authority.as_str().contains('@');
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        (is_plain && !host.is_empty()).then(|| Endpoint {
            is_tls,
            host,
            port: authority.port_u16().unwrap_or(usual),
            authority: authority.as_str().to_owned(),
        })
    }

    pub(super) fn of_region(region: &str) -> Endpoint {
        let host = format!("s3.{region}.amazonaws.com");
        Endpoint { is_tls: true, authority: host.clone(), host, port: 443 }
    }

    /// What a request calls the store by.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The store of Amazon calls a bucket by a host of its own. Certificates are not made out to names with more dots.
    #[must_use]
    pub fn of_bucket(&self, bucket: &str) -> Option<Endpoint> {
        let is_amazons = self.host.ends_with(".amazonaws.com") || self.host.ends_with(".amazonaws.com.cn");
        (is_amazons && !bucket.contains('.')).then(|| Endpoint {
            host: format!("{bucket}.{}", self.host),
            authority: format!("{bucket}.{}", self.authority),
            ..self.clone()
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }
}

/// With what requests are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Keys {
    /// No secret.
    pub id: String,
    pub secret: Secret,
    /// Of keys that are lent for a while.
    pub token: Option<Secret>,
}

/// Where the keys are; read whenever the store is called anew, so that new ones are taken without a word.
#[derive(Clone, Debug)]
pub enum S3KeySource {
    Variables(S3Keys),
    File { path: PathBuf, profile: String },
}

impl S3KeySource {
    pub fn read(&self) -> Result<S3Keys> {
        let (path, profile) = match self {
            S3KeySource::Variables(keys) => return Ok(keys.clone()),
            S3KeySource::File { path, profile } => (path, profile),
        };
        let doing = || format!("reading the keys of the archive in {}", path.display());
        let file = small_file::open_plain(path).context(doing).map_err(|error| match error.kind() {
            // Not as an archive that is not there: that has a meaning of its own.
            Kind::NotFound => Error::new(Kind::BadInput, "there are no keys for the archive").caused_by(error).hint(
                "name a file in archive_credentials_file, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            _ => error,
        })?;
        refuse_if_exposed(path, file.metadata().context(doing)?.mode(), "a secret")?;
        let text = small_file::read_opened_text(file, path).context(doing)?;
        let section = Section { text: &text, name: profile };
        match (section.value("aws_access_key_id"), section.value("aws_secret_access_key")) {
            (Some(id), Some(secret)) => Ok(S3Keys {
                id: id.to_owned(),
                secret: Secret::new(secret),
                token: section.value("aws_session_token").map(Secret::new),
            }),
            _ => {
                let message = format!("{} has no keys under [{profile}]", path.display());
                Err(Error::new(Kind::BadInput, message)
                    .hint("write aws_access_key_id = … and aws_secret_access_key = … into it, each in a line of its own"))
            }
        }
    }
}

/// What the makers' own tools would use.
#[derive(Clone, Debug, Default)]
pub(super) struct Usual {
    keys: Option<S3Keys>,
    region: Option<String>,
    /// What it says, with the name of the variable that says it.
    endpoint: Option<(&'static str, String)>,
    keys_file: PathBuf,
    settings_file: PathBuf,
    profile: String,
}

impl Usual {
    pub(super) fn find(env: &impl Fn(&str) -> Option<String>, places: &Places) -> Usual {
        let get = |name: &str| env(name).filter(|text| !text.is_empty());
        let keys = get("AWS_ACCESS_KEY_ID").zip(get("AWS_SECRET_ACCESS_KEY"));
        let file = |name: &str, usual: &str| {
            get(name).map_or_else(|| places.home.join(usual), |path| places.expand(PathBuf::from(path)))
        };
        Usual {
            keys: keys.map(|(id, secret)| S3Keys {
                id,
                secret: Secret::new(secret),
                token: get("AWS_SESSION_TOKEN").map(Secret::new),
            }),
            region: get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")),
            endpoint: ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
                .into_iter()
                .find_map(|name| Some((name, get(name)?))),
            keys_file: file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
            settings_file: file("AWS_CONFIG_FILE", ".aws/config"),
            profile: get("AWS_PROFILE").unwrap_or_else(|| "default".to_owned()),
        }
    }

    /// A file that cannot be read says nothing.
    pub(super) fn region(&self) -> String {
        let in_file = || {
            let text = small_file::read_text(&self.settings_file).ok()?;
            let profile = match self.profile.as_str() {
                "default" => "default".to_owned(),
                profile => format!("profile {profile}"),
            };
            Section { text: &text, name: &profile }.value("region").map(str::to_owned)
        };
        self.region.clone().or_else(in_file).unwrap_or_else(|| REGION.to_owned())
    }

    /// Where one is named that cannot be, another one is not asked for: keys and names would go there.
    pub(super) fn endpoint(&self, region: &str) -> Result<Endpoint> {
        let Some((name, text)) = &self.endpoint else { return Ok(Endpoint::of_region(region)) };
        Endpoint::read(text).ok_or_else(|| {
            // There may be a password in it.
            let message = format!("{name} is no address of a store");
            Error::new(Kind::BadInput, message).hint(
                "it is http:// or https:// and a host, no path, as https://minio.example.com:9000: correct it, or set archive_endpoint",
            )
        })
    }

    /// `named` is what our own setting says.
    pub(super) fn keys(&self, named: Option<&Path>) -> S3KeySource {
        match (named, &self.keys) {
            (Some(path), _) => S3KeySource::File { path: path.to_owned(), profile: "default".to_owned() },
            (None, Some(keys)) => S3KeySource::Variables(keys.clone()),
            (None, None) => S3KeySource::File { path: self.keys_file.clone(), profile: self.profile.clone() },
        }
    }
}

/// A part of a file of lines `name = value` under lines `[section]`; what stands before the first one is `default`.
struct Section<'a> {
    text: &'a str,
    name: &'a str,
}

impl<'a> Section<'a> {
    fn value(&self, name: &str) -> Option<&'a str> {
        let mut section = "default";
        for line in self.text.lines().map(str::trim) {
            if let Some(named) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = named.trim();
            } else if section == self.name
                && let Some((key, value)) = line.split_once('=')
                && key.trim() == name
                && !value.trim().is_empty()
            {
                return Some(value.trim());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_buckets_are_taken_apart_and_others_refused() {
        for (text, bucket, prefix) in [
            ("s3://backups", "backups", ""),
            ("s3://backups/", "backups", ""),
            ("s3://back.ups-2/app/archive_1/", "back.ups-2", "app/archive_1"),
        ] {
            let place = BucketPlace::read(text).unwrap_or_else(|| panic!("{text} was refused"));
            assert_eq!((place.bucket.as_str(), place.prefix.as_str()), (bucket, prefix), "{text}");
        }
        for text in [
            "",
            "backups",
            "https://backups/x",
            "s3://",
            "s3://Backups",
            "s3://b",
            "s3://backups//x",
            "s3://backups/../x",
            "s3://backups/a b",
        ] {
            assert_eq!(BucketPlace::read(text), None, "{text} was taken");
        }
        assert_eq!(BucketPlace::read("s3://backups/a/").expect("a place").to_string(), "s3://backups/a");
    }

    #[test]
    fn endpoints_are_a_scheme_and_a_host() {
        let endpoint = Endpoint::read("http://[::1]:8333").expect("an endpoint");
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, endpoint.authority()),
            ("::1", 8333, "[::1]:8333")
        );
        assert_eq!(Endpoint::read("https://minio.example/").expect("an endpoint").port, 443);
        for text in ["minio.example", "ftp://x", "https://u:p@x", "https://x/path", "https://x/?a", ""] {
            assert_eq!(Endpoint::read(text), None, "{text} was taken");
        }
        let amazon = Endpoint::of_region("eu-central-1");
        let of_bucket = amazon.of_bucket("backups").expect("a host of its own");
        assert_eq!(of_bucket.to_string(), "https://backups.s3.eu-central-1.amazonaws.com");
        assert_eq!((amazon.of_bucket("back.ups"), endpoint.of_bucket("backups")), (None, None));
    }

    #[test]
    fn keys_are_of_the_profile_and_what_is_before_any_is_the_usual_one() {
        let text = "aws_access_key_id = A\n# a remark\n[other]\naws_access_key_id=B\nregion =\n[profile x]\nregion = far";
        let value = |name, key| Section { text, name }.value(key);
        assert_eq!(value("default", "aws_access_key_id"), Some("A"));
        assert_eq!(value("other", "aws_access_key_id"), Some("B"));
        assert_eq!((value("other", "region"), value("profile x", "region")), (None, Some("far")));
        assert_eq!(value("none", "region"), None);
    }
}
