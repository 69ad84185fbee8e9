//! Bearer tokens: JWTs (RFC 7519) checked as RFC 8725 advises.
//!
//! The keys come from the configuration alone, and each is good for one algorithm; what a token says of keys (`jku`, `x5u`,
//! `jwk`) is not looked at. Issuer, audience, expiry, subject and tenant are required. Does not own roles: what a participant
//! may do is the policy's business.

use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use roomreel_shared::id::{PeerId, TenantId};
use serde::Deserialize;

/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Most keys of a key set.
const MAX_KEYS: usize = 64;
/// Shortest secret: as long as the hash (RFC 7518 section 3.2).
const MIN_SECRET_BYTES: usize = 32;
/// Most that clocks may differ.
const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// A key that tokens may be signed with.
#[derive(Clone)]
pub enum KeySource {
    /// A shared secret of at least 32 bytes, for HS256. For development.
    Secret(Vec<u8>),
    /// An Ed25519 public key as PEM, for EdDSA.
    EdDsaPem(Vec<u8>),
    /// A P-256 public key as PEM, for ES256.
    Es256Pem(Vec<u8>),
    /// A JSON Web Key Set (RFC 7517) of Ed25519 and P-256 public keys.
    Jwks(String),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(…)",
            Self::EdDsaPem(_) => "EdDsaPem(…)",
            Self::Es256Pem(_) => "Es256Pem(…)",
            Self::Jwks(_) => "Jwks(…)",
        })
    }
}

/// Which tokens are accepted.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// The `iss` that a token must name.
    pub issuer: String,
    /// The `aud` that a token must name.
    pub audience: String,
    /// At least one.
    pub keys: Vec<KeySource>,
    /// A token that is good for longer is refused.
    pub max_life: Duration,
    /// How far clocks may differ; at most 60 s.
    pub leeway: Duration,
}

impl AuthConfig {
    /// With a life of at most an hour and 30 s of leeway.
    #[must_use]
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>, keys: Vec<KeySource>) -> Self {
        let (issuer, audience) = (issuer.into(), audience.into());
        Self { issuer, audience, keys, max_life: Duration::from_secs(3600), leeway: Duration::from_secs(30) }
    }
}

/// The configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token verification: {0}")]
pub struct ConfigError(String);

/// Why a token was refused, for the log and the answer; it tells nothing about the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is none, or not as `Authorization: Bearer`.
    #[error("no bearer token was sent")]
    Missing,
    /// It is none of ours: malformed, of another algorithm, or signed with another key.
    #[error("the token is malformed or not signed with a key that is accepted here")]
    Unverified,
    /// It is signed, and its time, issuer or audience is wrong.
    #[error("the token is expired, not yet valid, or not meant for this service")]
    NotValid,
    /// It is good for too long.
    #[error("the token is valid for longer than is accepted here")]
    TooLong,
    /// A claim that is required is missing or malformed.
    #[error("the token lacks a claim or has a malformed one; exp, iss, aud, sub, tenant and scope are required")]
    Claims,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// From the token only.
    pub tenant: TenantId,
    /// The token's subject.
    pub subject: String,
    /// The participant the token is for; `None`: a service, admitted by its scopes alone.
    pub peer: Option<PeerId>,
    /// Has `recordings:read`.
    pub may_read: bool,
    /// Has `recordings:write`.
    pub may_write: bool,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    tenant: TenantId,
    scope: String,
    #[serde(default)]
    peer: Option<PeerId>,
    exp: u64,
    #[serde(default)]
    iat: Option<u64>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Checks tokens.
pub struct Verifier {
    keys: Vec<Key>,
    issuer: String,
    audience: String,
    max_life: Duration,
    leeway: Duration,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Reads the keys.
    ///
    /// # Errors
    /// In words, never with a key in them.
    pub fn new(config: AuthConfig) -> Result<Self, ConfigError> {
        let refuse = |why: &str| Err(ConfigError(why.to_owned()));
        if config.issuer.is_empty() || config.audience.is_empty() {
            return refuse("issuer and audience must be set");
        }
        if config.leeway > MAX_LEEWAY {
            return refuse("the leeway is over 60 s");
        }
        let mut keys = Vec::new();
        for source in config.keys {
            match source {
                KeySource::Secret(secret) if secret.len() < MIN_SECRET_BYTES => {
                    return refuse("the HS256 secret is shorter than 32 bytes; make one with `openssl rand -hex 32`");
                }
                KeySource::Secret(secret) => {
                    keys.push(Key { id: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(&secret) });
                }
                KeySource::EdDsaPem(pem) => {
                    let Ok(key) = DecodingKey::from_ed_pem(&pem) else {
                        return refuse("the EdDSA key is not an Ed25519 public key in PEM form");
                    };
                    keys.push(Key { id: None, algorithm: Algorithm::EdDSA, key });
                }
                KeySource::Es256Pem(pem) => {
                    let Ok(key) = DecodingKey::from_ec_pem(&pem) else {
                        return refuse("the ES256 key is not a P-256 public key in PEM form");
                    };
                    keys.push(Key { id: None, algorithm: Algorithm::ES256, key });
                }
                KeySource::Jwks(json) => keys.extend(read_jwks(&json)?),
            }
        }
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return refuse("there must be between 1 and 64 keys");
        }
        let AuthConfig { issuer, audience, max_life, leeway, .. } = config;
        Ok(Self { keys, issuer, audience, max_life, leeway })
    }

    /// Checks the value of an `Authorization` header.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self, authorization: Option<&str>, now_s: u64) -> Result<Principal, Refused> {
        let (scheme, token) = authorization.and_then(|value| value.split_once(' ')).ok_or(Refused::Missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refused::Missing);
        }
        let token = token.trim();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Unverified);
        }
        let header = decode_header(token).map_err(|_| Refused::Unverified)?;
        // A header that we would have to understand and do not (RFC 7515 section 4.1.11).
        if header.crit.is_some() {
            return Err(Refused::Unverified);
        }
        let candidates = self.keys.iter().filter(|key| {
            key.algorithm == header.alg && (key.id.is_none() || header.kid.is_none() || key.id == header.kid)
        });
        let mut refused = Refused::Unverified;
        for key in candidates {
            match self.check_with(key, token, now_s) {
                Err(Refused::Unverified) => {}
                Err(other) => refused = other,
                Ok(principal) => return Ok(principal),
            }
        }
        Err(refused)
    }

    fn check_with(&self, key: &Key, token: &str, now_s: u64) -> Result<Principal, Refused> {
        use jsonwebtoken::errors::ErrorKind as E;
        let mut validation = Validation::new(key.algorithm);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = self.leeway.as_secs();
        let claims = decode::<Claims>(token, &key.key, &validation).map_err(|error| match error.kind() {
            E::ExpiredSignature | E::ImmatureSignature | E::InvalidIssuer | E::InvalidAudience => Refused::NotValid,
            E::MissingRequiredClaim(_) | E::Json(_) | E::InvalidClaimFormat(_) => Refused::Claims,
            _ => Refused::Unverified,
        })?;
        let Claims { sub, tenant, scope, peer, exp, iat } = claims.claims;
        if sub.is_empty() {
            return Err(Refused::Claims);
        }
        let (leeway, max_life) = (self.leeway.as_secs(), self.max_life.as_secs());
        let issued = iat.unwrap_or(now_s);
        if issued > now_s.saturating_add(leeway) {
            return Err(Refused::NotValid);
        }
        let life = exp.saturating_sub(issued.min(now_s)).max(exp.saturating_sub(now_s));
        if exp.saturating_sub(now_s) > max_life.saturating_add(leeway) || life > max_life.saturating_add(leeway) {
            return Err(Refused::TooLong);
        }
        let has = |name| scope.split(' ').any(|granted| granted == name);
        let (may_read, may_write) = (has("recordings:read"), has("recordings:write"));
        Ok(Principal { tenant, subject: sub, peer, may_read, may_write })
    }
}

fn read_jwks(json: &str) -> Result<Vec<Key>, ConfigError> {
    let set: JwkSet = serde_json::from_str(json).map_err(|e| ConfigError(format!("the key set does not read: {e}")))?;
    let mut keys = Vec::new();
    for jwk in set.keys {
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
            _ => return Err(ConfigError("the key set holds a key that is neither Ed25519 nor P-256".to_owned())),
        };
        let named = match jwk.common.key_algorithm {
            None => algorithm,
            Some(KeyAlgorithm::EdDSA) => Algorithm::EdDSA,
            Some(KeyAlgorithm::ES256) => Algorithm::ES256,
            Some(_) => return Err(ConfigError("the key set names an algorithm other than EdDSA and ES256".to_owned())),
        };
        if named != algorithm {
            return Err(ConfigError("the key set names an algorithm that does not fit the key".to_owned()));
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|e| ConfigError(format!("a key of the key set: {e}")))?;
        keys.push(Key { id: jwk.common.key_id, algorithm, key });
    }
    Ok(keys)
}
