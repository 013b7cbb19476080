//! Authorization of `ate dev`: whoever is in one of these groups may do everything.

use super::ask::Failed;
use super::attributes::Attributes;
use super::gate::{Authorizer, Decision};
use super::user::User;
use async_trait::async_trait;

/// The groups.
#[derive(Clone, Debug)]
pub struct Groups(pub Vec<&'static str>);

#[async_trait]
impl Authorizer for Groups {
    async fn authorize(&self, user: &User, _: &Attributes) -> Result<Decision, Failed> {
        if self.0.iter().any(|g| user.is_in(g)) {
            return Ok(Decision::Allowed);
        }
        let reason = format!(
            "user {:?} is in none of the groups {}",
            user.name,
            self.0.join(", ")
        );
        Ok(Decision::Denied { reason })
    }
}
