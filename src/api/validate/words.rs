//! What garde's own rules say to a user.

use garde::i18n::{
    DefaultI18n, I18n, InvalidCreditCard, InvalidEmail, InvalidPhoneNumber, InvalidUrl, IpKind,
};
use std::borrow::Cow;
use std::fmt::Display;

type Text = Cow<'static, str>;

/// Says what to write instead, where garde says what is wrong. Rules that no type uses keep garde's words.
pub(super) struct Words;

impl I18n for Words {
    fn length_lower_than(&self, min: usize) -> Text {
        format!("is too short: write at least {min}").into()
    }

    fn length_greater_than(&self, max: usize) -> Text {
        format!("is too long: at most {max} are possible").into()
    }

    fn range_lower_than(&self, min: &dyn Display) -> Text {
        format!("must be {min} or more").into()
    }

    fn range_greater_than(&self, max: &dyn Display) -> Text {
        format!("must be {max} or less").into()
    }

    fn prefix_missing(&self, prefix: &dyn Display) -> Text {
        format!("must begin with '{prefix}'").into()
    }

    fn credit_card_invalid(&self, reason: InvalidCreditCard) -> Text {
        DefaultI18n.credit_card_invalid(reason)
    }

    fn pattern_no_match(&self, pattern: &dyn Display) -> Text {
        DefaultI18n.pattern_no_match(pattern)
    }

    fn contains_missing(&self, pattern: &dyn Display) -> Text {
        DefaultI18n.contains_missing(pattern)
    }

    fn url_invalid(&self, reason: InvalidUrl) -> Text {
        DefaultI18n.url_invalid(reason)
    }

    fn suffix_missing(&self, pattern: &dyn Display) -> Text {
        DefaultI18n.suffix_missing(pattern)
    }

    fn phone_number_invalid(&self, reason: InvalidPhoneNumber) -> Text {
        DefaultI18n.phone_number_invalid(reason)
    }

    fn ip_invalid(&self, kind: IpKind) -> Text {
        DefaultI18n.ip_invalid(kind)
    }

    fn matches_field_mismatch(&self, field: &dyn Display) -> Text {
        DefaultI18n.matches_field_mismatch(field)
    }

    fn email_invalid(&self, reason: InvalidEmail) -> Text {
        DefaultI18n.email_invalid(reason)
    }

    fn ascii_invalid(&self) -> Text {
        DefaultI18n.ascii_invalid()
    }

    fn alphanumeric_invalid(&self) -> Text {
        DefaultI18n.alphanumeric_invalid()
    }

    fn required_not_set(&self) -> Text {
        DefaultI18n.required_not_set()
    }
}
