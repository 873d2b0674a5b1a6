//! What a store says when it does not do what it was asked: a status, a code and words, which become errors of ours.

use syncdata_formats::error::{Error, Kind};
use syncdata_formats::time::Timestamp;

use super::xml::Element;

/// No code of a store's.
const STRANGER: &str = "NoAnswerOfAStore";

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: u16,
    /// The store's word for it; empty where it says nothing, as to a HEAD.
    pub code: String,
    pub message: String,
    /// The clock of the store.
    pub date: Option<Timestamp>,
}

impl Refusal {
    pub(super) fn read(status: u16, date: Option<Timestamp>, body: &[u8]) -> Refusal {
        match Element::parse(body) {
            Ok(error) if error.name == "Error" => Refusal::of(status, date, &error),
            _ => Refusal { status, code: String::new(), message: String::new(), date },
        }
    }

    /// Something answered that is not the store: a balancer, a page of maintenance. It is asked again.
    pub(super) fn of_a_stranger(status: u16) -> Refusal {
        let message = "what answered is not the store".to_owned();
        Refusal { status, code: STRANGER.to_owned(), message, date: None }
    }

    pub(super) fn of(status: u16, date: Option<Timestamp>, error: &Element) -> Refusal {
        let text = |name| error.text_of(name).trim().chars().take(300).collect();
        Refusal { status, code: text("Code"), message: text("Message"), date }
    }

    /// A condition of ours does not hold: the name is taken, or the content is another one.
    pub(super) fn is_unmet_condition(&self) -> bool {
        self.status == 412 || self.code == "PreconditionFailed"
    }

    /// Of a bucket that is there.
    pub(super) fn is_missing(&self) -> bool {
        self.status == 404 && self.code != "NoSuchBucket" && self.code != STRANGER
    }

    /// The keys have been others since.
    pub(super) fn is_of_old_keys(&self) -> bool {
        matches!(self.code.as_str(), "ExpiredToken" | "InvalidToken")
    }

    /// Nobody's fault, and gone a moment later.
    fn is_passing(&self) -> bool {
        const CODES: [&str; 9] = [
            "SlowDown",
            "InternalError",
            "ServiceUnavailable",
            "RequestTimeout",
            "OperationAborted",
            "ConditionalRequestConflict",
            // Bytes were changed on the way: they are sent again.
            "BadDigest",
            "XAmzContentSHA256Mismatch",
            STRANGER,
        ];
        self.status == 429
            || self.status >= 500 && !matches!(self.status, 501 | 505 | 507)
            || CODES.contains(&self.code.as_str())
    }

    pub(super) fn error(&self, doing: &str) -> Error {
        let said = match (self.code.as_str(), self.message.as_str()) {
            ("", _) => format!("the store answers {}", self.status),
            (code, "") => format!("the store answers {} {code}", self.status),
            (code, message) => format!("the store answers {} {code}: {message}", self.status),
        };
        let error = |kind| Error::new(kind, format!("{doing}: {said}"));
        if self.is_passing() {
            return error(Kind::Unreachable)
                .hint("the store asks to come again later, which is done; nothing is lost meanwhile");
        }
        match (self.status, self.code.as_str()) {
            (_, "NoSuchBucket") => error(Kind::BadInput)
                .hint("make the bucket (it is never made here), or correct archive_url"),
            (_, "RequestTimeTooSkewed") => self.skewed(&error(Kind::Refused)),
            (_, "SignatureDoesNotMatch") => error(Kind::Refused).hint(
                "the secret key is not that of the access key, or archive_region is not that of the bucket: correct the keys \
                 (archive_credentials_file, AWS_SECRET_ACCESS_KEY)",
            ),
            (_, "InvalidAccessKeyId" | "ExpiredToken" | "InvalidToken") => error(Kind::Refused)
                .hint("the store does not know these keys (any more): correct archive_credentials_file or AWS_ACCESS_KEY_ID"),
            (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException")
            | (301 | 307, _) => error(Kind::BadInput)
                .hint("the bucket is in another region: correct archive_region (and archive_endpoint)"),
            (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull" | "EntityTooLarge") => error(Kind::NoSpace)
                .hint("raise the quota of the bucket, or free space in it; nothing is lost, the next attempt begins anew"),
            (501, _) | (_, "NotImplemented") => error(Kind::Refused).hint(
                "this store cannot do what an archive needs (a PUT with If-None-Match and If-Match): use another one",
            ),
            (401 | 403, _) => error(Kind::Refused).hint(
                "give the keys the rights that this needs on the bucket: to list it and to read for all, to create for the \
                 archiver, to replace head.json, and to delete for who prunes",
            ),
            (404, _) => error(Kind::NotFound),
            (409 | 412, _) => error(Kind::Conflict),
            _ => error(Kind::Io),
        }
    }

    fn skewed(&self, error: &Error) -> Error {
        let now = Timestamp::now();
        let (ahead, behind) =
            self.date.map_or((0, 0), |date| (now.since(date).as_secs(), date.since(now).as_secs()));
        let by = match (ahead, behind) {
            (0, 0) => "is not that of the store".to_owned(),
            (ahead, 0) => format!("is {ahead} s ahead of the store's"),
            (_, behind) => format!("is {behind} s behind the store's"),
        };
        Error::new(Kind::Refused, error.to_string())
            .hint(format!("the clock of this host {by}: set it right (systemd-timesyncd, chrony)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, code: &str) -> Refusal {
        let body = format!("<Error><Code>{code}</Code><Message>words</Message></Error>");
        Refusal::read(status, None, body.as_bytes())
    }

    #[test]
    fn what_passes_is_tried_again_and_the_rest_is_for_somebody() {
        for (status, code, kind) in [
            (503, "SlowDown", Kind::Unreachable),
            (500, "InternalError", Kind::Unreachable),
            (502, "", Kind::Unreachable),
            (429, "", Kind::Unreachable),
            (400, "RequestTimeout", Kind::Unreachable),
            (409, "ConditionalRequestConflict", Kind::Unreachable),
            (400, "XAmzContentSHA256Mismatch", Kind::Unreachable),
            (404, "NoSuchKey", Kind::NotFound),
            (404, "", Kind::NotFound),
            (404, "NoSuchBucket", Kind::BadInput),
            (403, "AccessDenied", Kind::Refused),
            (403, "", Kind::Refused),
            (403, "RequestTimeTooSkewed", Kind::Refused),
            (501, "NotImplemented", Kind::Refused),
            (301, "PermanentRedirect", Kind::BadInput),
            (412, "PreconditionFailed", Kind::Conflict),
            (507, "", Kind::NoSpace),
            (400, "InvalidArgument", Kind::Io),
        ] {
            assert_eq!(refusal(status, code).error("asking").kind(), kind, "{status} {code}");
        }
        assert!(refusal(404, "NoSuchKey").is_missing() && !refusal(404, "NoSuchBucket").is_missing());
    }

    #[test]
    fn a_wrong_clock_is_told_by_how_much() {
        let date = Timestamp::from_micros(Timestamp::now().as_micros() + 3_600_000_000).ok();
        let refusal = Refusal { date, ..refusal(403, "RequestTimeTooSkewed") };
        assert!(refusal.error("asking").report().contains("s behind the store's"), "{refusal:?}");
    }
}
