//! Signatures of manifests, as minisign makes and checks them: the bytes of `….manifest.json.minisig`.
//!
//! What is signed is the manifest, whose digests cover all the rest. The file's name stands in the trusted comment.

use std::fmt;
use std::io::Cursor;
use std::path::Path;
use std::str::FromStr;

use minisign::{KeyPair, PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};

use crate::document::Document;
use crate::error::{Error, Kind, Result};

/// Base64 of the 64 bytes that sign the signature and its trusted comment.
const GLOBAL_SIGNATURE_CHARS: usize = 88;

/// The archiver's secret key. Never printed.
pub struct SigningKey {
    secret: SecretKey,
    public: PublicKey,
}

/// Whose signature a manifest must have.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyKey(PublicKey);

impl SigningKey {
    /// The text of a key file, as `keygen` or `minisign -G` made it: without a password, or with it given.
    pub fn parse(key_file: &str, password: Option<&str>) -> Result<SigningKey> {
        let sealed = || SecretKeyBox::from_string(key_file).map_err(|error| bad_key("signing key", error));
        let secret = match (sealed()?.into_unencrypted_secret_key(), password) {
            (Ok(secret), _) => secret,
            // Asking minisign without a password would prompt on the terminal.
            (Err(error), None) => {
                return Err(
                    bad_key("signing key", error).hint("give a key without a password, or its password")
                );
            }
            (Err(_), Some(password)) => sealed()?
                .into_secret_key(Some(password.to_owned()))
                .map_err(|error| bad_key("signing key or its password", error))?,
        };
        let public = PublicKey::from_secret_key(&secret).map_err(|error| bad_key("signing key", error))?;
        Ok(SigningKey { secret, public })
    }

    /// A new key without a password: the two files' texts, secret and public.
    pub fn generate() -> Result<(String, String)> {
        let made = || {
            let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair()?;
            let comment = Some("syncdata signing key");
            Ok((sk.to_box(comment)?.into_string(), pk.to_box()?.into_string()))
        };
        made()
            .map_err(|error: minisign::PError| Error::new(Kind::Io, "making a signing key").caused_by(error))
    }

    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.public.clone())
    }

    /// The signature file's bytes. `file_name` is the manifest's.
    pub fn sign(&self, manifest: &[u8], file_name: &str) -> Result<Vec<u8>> {
        let comment = format!("file:{file_name}");
        let untrusted = format!("signature of {file_name}");
        minisign::sign(Some(&self.public), &self.secret, manifest, Some(&comment), Some(&untrusted))
            .map(|signature| signature.into_string().into_bytes())
            .map_err(|error| Error::new(Kind::BadInput, format!("signing {file_name}")).caused_by(error))
    }
}

impl VerifyKey {
    /// A setting: the key as `minisign -P` takes it, or the path of a .pub file, which `read` reads.
    pub fn from_setting(setting: &str, read: impl FnOnce(&Path) -> Result<String>) -> Result<VerifyKey> {
        if let Ok(key) = PublicKey::from_base64(setting.trim()) {
            return Ok(VerifyKey(key));
        }
        let text = read(Path::new(setting)).map_err(|error| {
            error
                .context(format!("{setting:?} is neither a public key nor a file of one"))
                .hint("set verify_key to the line that begins with RW, or to the path of the .pub file")
        })?;
        text.parse::<VerifyKey>().map_err(|error| error.context(format!("reading {setting}")))
    }

    /// Checks the signature file's bytes. Its first line is a comment for which nobody vouches; all else is checked.
    pub fn verify(&self, manifest: &[u8], file_name: &str, signature: &[u8]) -> Result<()> {
        self.check(manifest, file_name, signature).map_err(|problem| {
            Error::new(Kind::Refused, format!("the signature of {file_name} is refused")).caused_by(problem).hint(
                "check verify_key; if it is right, someone else wrote this manifest: nothing of it was applied",
            )
        })
    }

    fn check(
        &self,
        manifest: &[u8],
        file_name: &str,
        signature: &[u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if signature.len() > Document::Signature.bytes_max() {
            return Err("it is longer than a signature".into());
        }
        let text = std::str::from_utf8(signature)?;
        // The library takes a shorter one and then reads beyond its end.
        if text.lines().nth(3).is_none_or(|line| line.len() != GLOBAL_SIGNATURE_CHARS) {
            return Err("its last line is not a signature".into());
        }
        let signature = SignatureBox::from_string(text)?;
        // Base64 has bits that nobody reads; one signature has one spelling here.
        if signature.to_string() != text {
            return Err("it is not written as minisign writes it".into());
        }
        minisign::verify(&self.0, &signature, Cursor::new(manifest), true, false, false)?;
        let comment = signature.trusted_comment()?;
        // Made by hand with stock minisign, it holds `file:NAME` among other things.
        let names_it =
            comment.split_ascii_whitespace().any(|word| word.strip_prefix("file:") == Some(file_name));
        if names_it { Ok(()) } else { Err(format!("it is of another file: {comment:?}").into()) }
    }
}

/// The text of a .pub file, or its second line alone.
impl FromStr for VerifyKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<VerifyKey> {
        PublicKey::from_base64(text.trim())
            .or_else(|_| PublicKeyBox::from_string(text)?.into_public_key())
            .map(VerifyKey)
            .map_err(|error| bad_key("public key", error))
    }
}

/// As `minisign -P` takes it.
impl fmt::Display for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_base64())
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyKey({self})")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {:?})", self.verify_key())
    }
}

fn bad_key(what: &str, error: minisign::PError) -> Error {
    Error::new(Kind::BadInput, format!("not a {what} that minisign knows")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "0000000042-00000000016B3D40.manifest.json";
    const MANIFEST: &[u8] = b"{\"format\":1}\n";

    fn key() -> SigningKey {
        let (secret, _) = SigningKey::generate().expect("random numbers");
        SigningKey::parse(&secret, None).expect("our own key")
    }

    #[test]
    fn checks_what_it_signed() {
        let (secret, public) = SigningKey::generate().expect("random numbers");
        let key = SigningKey::parse(&secret, None).expect("our own key");
        let signature = key.sign(MANIFEST, NAME).expect("signed");
        assert!(public.parse::<VerifyKey>().expect("a .pub file").verify(MANIFEST, NAME, &signature).is_ok());
        assert!(key.verify_key().verify(MANIFEST, NAME, &signature).is_ok());
    }

    #[test]
    fn refuses_another_key_another_file_and_other_bytes() {
        let key = key();
        let signature = key.sign(MANIFEST, NAME).expect("signed");
        let verify = key.verify_key();
        assert!(self::key().verify_key().verify(MANIFEST, NAME, &signature).is_err(), "another key");
        assert!(verify.verify(MANIFEST, "other.manifest.json", &signature).is_err(), "another file");
        assert!(verify.verify(MANIFEST, NAME, b"").is_err(), "no signature");
        let text = String::from_utf8(signature.clone()).expect("UTF-8");
        let global = text.lines().nth(3).expect("four lines");
        let short = text.replace(global, "AAAA");
        assert!(verify.verify(MANIFEST, NAME, short.as_bytes()).is_err(), "a short signature of the comment");
        assert!(
            verify.verify(MANIFEST, NAME, &[b'\n'; Document::Signature.bytes_max() + 1]).is_err(),
            "too long"
        );
        for bit in 0..MANIFEST.len() * 8 {
            let mut flipped = MANIFEST.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify.verify(&flipped, NAME, &signature).is_err(), "bit {bit} of the manifest");
        }
        let error = verify.verify(b"other", NAME, &signature).expect_err("refused");
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.report().contains(NAME) && error.hint_text().is_some());
    }

    /// The first line is a comment that minisign itself calls untrusted; no flip after it goes unnoticed.
    #[test]
    fn refuses_every_flipped_bit_and_truncation_behind_the_untrusted_comment() {
        let key = key();
        let signature = key.sign(MANIFEST, NAME).expect("signed");
        let verify = key.verify_key();
        let after = memchr::memchr(b'\n', &signature).expect("lines") + 1;
        for bit in after * 8..signature.len() * 8 {
            let mut flipped = signature.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify.verify(MANIFEST, NAME, &flipped).is_err(), "bit {bit}");
        }
        for length in 0..signature.len() {
            assert!(verify.verify(MANIFEST, NAME, &signature[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_verify_key_is_a_key_or_the_path_of_one() {
        let key = key().verify_key();
        let base64 = key.to_string();
        let never = |_: &Path| panic!("a key is no path");
        assert_eq!(VerifyKey::from_setting(&base64, never).ok(), Some(key.clone()));
        let file = format!("untrusted comment: minisign public key\n{base64}\n");
        assert_eq!(VerifyKey::from_setting("/etc/syncdata/key.pub", |_| Ok(file)).ok(), Some(key));
        let missing = |path: &Path| Err(Error::new(Kind::NotFound, format!("opening {}", path.display())));
        let error = VerifyKey::from_setting("RWnonsense", missing).expect_err("neither");
        assert!(error.report().contains("neither a public key nor a file of one"));
        assert!(VerifyKey::from_setting("/etc/passwd", |_| Ok("root:x:0:0".into())).is_err());
    }

    #[test]
    fn a_key_with_a_password_needs_it_and_never_asks() {
        let pair = KeyPair::generate_encrypted_keypair(Some("secret".into())).expect("random numbers");
        let file = pair.sk.to_box(None).expect("a key").into_string();
        assert!(SigningKey::parse(&file, None).is_err());
        assert!(SigningKey::parse(&file, Some("wrong")).is_err());
        assert!(SigningKey::parse(&file, Some("secret")).is_ok());
        assert!(SigningKey::parse("no key", None).is_err());
    }

    #[test]
    fn the_secret_is_never_printed() {
        let (secret, _) = SigningKey::generate().expect("random numbers");
        let printed = format!("{:?}", SigningKey::parse(&secret, None).expect("our own key"));
        let secret = secret.lines().nth(1).expect("the key's line");
        assert!(!printed.contains(&secret[..16]), "{printed}");
    }
}
