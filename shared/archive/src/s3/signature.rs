//! Requests signed with keys, as every store of this kind asks it (AWS Signature Version 4). The digest of the body is
//! signed too, and so are all headers that we set: whoever sits in between can take none of them away.

use syncdata_formats::digest::Digest;
use syncdata_formats::error::Result;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::S3Keys;
use syncdata_service::hmac;

use super::request::Request;

/// What a request is signed with, and for.
pub(super) struct Signer<'a> {
    pub keys: &'a S3Keys,
    pub region: &'a str,
    pub at: Timestamp,
}

impl Signer<'_> {
    /// All headers of the request, the signature among them. `path` is encoded.
    pub(super) fn sign(
        &self,
        request: &Request,
        authority: &str,
        path: &str,
    ) -> Result<Vec<(&'static str, String)>> {
        let at = self.at.to_second().to_string().replace(['-', ':'], "");
        let day = &at[..8];
        let mut headers = request.headers.clone();
        headers.push(("host", authority.to_owned()));
        headers.push(("x-amz-content-sha256", request.sha256.to_string()));
        headers.push(("x-amz-date", at.clone()));
        if let Some(token) = &self.keys.token {
            headers.push(("x-amz-security-token", token.expose().to_owned()));
        }
        headers.sort();
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let canonical = format!(
            "{}\n{path}\n{}\n{lines}\n{names}\n{}",
            request.method,
            request.query_text(),
            request.sha256
        );
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", Digest::of(canonical.as_bytes()));
        let signature = hmac::sha256_hex(&self.key(day)?, text.as_bytes())?;
        let id = &self.keys.id;
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        headers.push(("authorization", authorization));
        Ok(headers)
    }

    fn key(&self, day: &str) -> Result<Vec<u8>> {
        let secret = format!("AWS4{}", self.keys.secret.expose());
        [day, self.region, "s3", "aws4_request"]
            .into_iter()
            .try_fold(secret.into_bytes(), |key, part| hmac::sha256(&key, part.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncdata_service::secret::Secret;

    /// The first example of the documentation of the signature.
    #[test]
    fn the_signature_is_that_of_the_documentation() {
        let keys = S3Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            token: None,
        };
        let at = "2013-05-24T00:00:00Z".parse().expect("a time");
        let signer = Signer { keys: &keys, region: "us-east-1", at };
        let request = Request::get("test.txt").header("range", "bytes=0-9");
        let headers = signer.sign(&request, "examplebucket.s3.amazonaws.com", "/test.txt").expect("signed");
        let authorization = headers.last().expect("the signature").1.as_str();
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }
}
