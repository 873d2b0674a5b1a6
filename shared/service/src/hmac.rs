//! Keyed hashes: HMAC with SHA-256. Who does not have the key can neither make one nor try values until one fits.

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use syncdata_formats::error::{Error, Kind, Result};

/// As hexadecimal digits.
pub fn sha256_hex(key: &[u8], message: &[u8]) -> Result<String> {
    Ok(sha256(key, message)?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// 32 bytes.
pub fn sha256(key: &[u8], message: &[u8]) -> Result<Vec<u8>> {
    let failed = |error| Error::new(Kind::Io, "making a keyed hash").caused_by(error);
    let key = PKey::hmac(key).map_err(failed)?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key).map_err(failed)?;
    signer.sign_oneshot_to_vec(message).map_err(failed)
}

/// A new key: bytes that nobody can guess.
pub fn new_key() -> Result<[u8; 32]> {
    let mut key = [0; 32];
    let made = openssl::rand::rand_bytes(&mut key);
    made.map_err(|error| Error::new(Kind::Io, "making a key").caused_by(error))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second test case of RFC 4231.
    #[test]
    fn the_hash_is_that_of_the_standard() {
        let hash = sha256_hex(b"Jefe", b"what do ya want for nothing?").expect("a hash");
        assert_eq!(hash, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn no_key_is_made_twice() {
        assert_ne!(new_key().expect("a key"), new_key().expect("another"));
    }
}
