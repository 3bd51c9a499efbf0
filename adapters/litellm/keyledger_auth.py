"""Lets keyledger decide which requests LiteLLM's proxy takes.

Put this file beside LiteLLM's config.yaml and name it there:

    general_settings:
      custom_auth: keyledger_auth.user_api_key_auth

It asks KEYLEDGER_URL with KEYLEDGER_TOKEN, an access token of the role relay. Every limit of
the key holds: what LiteLLM would check itself, it need not. Usage comes back through the generic
API callback; docs/integrations/README.md has the whole set-up. The file needs nothing but Python
and LiteLLM.
"""

import asyncio
import json
import os
import urllib.error
import urllib.request

from litellm.proxy._types import ProxyException, UserAPIKeyAuth

URL = os.environ.get("KEYLEDGER_URL", "http://127.0.0.1:8080").rstrip("/")
TOKEN = os.environ.get("KEYLEDGER_TOKEN", "")
# How long a slot of concurrency is kept where the end of a request is never told, in seconds.
LEASE_SECONDS = int(os.environ.get("KEYLEDGER_LEASE_SECONDS", "600"))
TIMEOUT_SECONDS = float(os.environ.get("KEYLEDGER_TIMEOUT_SECONDS", "5"))

# The HTTP status of each refusal; of any other, 401.
STATUS = {
    "REQUEST_ALREADY_SETTLED": 409,
    "SERVICE_NOT_PERMITTED": 403,
    "MODEL_NOT_ALLOWED": 403,
    "CLIENT_NOT_ALLOWED": 403,
    "MODEL_NOT_PRICED": 403,
    "CONCURRENCY_EXCEEDED": 429,
    "REQUESTS_EXCEEDED": 429,
    "TOKENS_EXCEEDED": 429,
    "DAILY_COST_EXCEEDED": 402,
    "WEEKLY_COST_EXCEEDED": 402,
    "MONTHLY_COST_EXCEEDED": 402,
    "TOTAL_COST_EXCEEDED": 402,
}


async def user_api_key_auth(request, api_key):
    """Admits a request, or raises what LiteLLM shows its client."""
    secret = api_key.removeprefix("Bearer ").strip()
    if request.method in ("GET", "HEAD"):
        # It calls no model: the key must be live, and no limit stands against it.
        answer = await asyncio.to_thread(_ask, "/v1/keys/verify", {"apiKey": secret})
        if not answer.get("valid"):
            raise _refusal(answer.get("message", "Not admitted"), answer.get("code", "UNAVAILABLE"), 401)
        return UserAPIKeyAuth(api_key=answer["key"]["id"], key_alias=answer["key"].get("name"), metadata={"keyledger_key_id": answer["key"]["id"]})
    body = await _body(request)
    if "," in str(body.get("model", "")) or body.get("fallbacks"):
        # LiteLLM would call other models than the one that is admitted.
        raise _refusal("One model, and no fallbacks: keyledger admits one model a request", "MODEL_NOT_ALLOWED", 400)
    asked = {"apiKey": secret, "leaseSeconds": LEASE_SECONDS}
    if isinstance(body.get("model"), str):
        asked["model"] = body["model"][:200]
    if request.headers.get("user-agent"):
        asked["userAgent"] = request.headers["user-agent"][:1000]
    if os.environ.get("KEYLEDGER_SERVICE"):
        asked["service"] = os.environ["KEYLEDGER_SERVICE"]
    bound = max(_count(body.get(name)) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    if bound > 0:
        # At most: what the answers may have, and what the text of the request can come to.
        asked["estimate"] = {"inputTokens": _text(body), "outputTokens": bound * max(1, _count(body.get("n")))}
    # Asking must not hold up the requests of others, and urllib waits.
    decision = await asyncio.to_thread(_ask, "/v1/admissions", asked)
    if not decision.get("allowed"):
        code = decision.get("code", "UNAVAILABLE")
        raise _refusal(decision.get("message", "Not admitted"), code, STATUS.get(code, 401))
    key = decision["key"]
    # The key's id stands where LiteLLM would keep the secret: it logs this, in clear.
    return UserAPIKeyAuth(
        api_key=key["id"],
        key_alias=key.get("name"),
        metadata={"keyledger_key_id": key["id"], "keyledger_admission_id": decision.get("admissionId", "")},
    )


def _refusal(message, code, status):
    return ProxyException(message=message, type=code.lower(), param=None, code=status)


async def _body(request):
    try:
        body = await request.json()
    except Exception:  # a request without a body, or a form: no model is known of it
        return {}
    return body if isinstance(body, dict) else {}


def _count(value):
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40 else 0


def _text(value):
    """Counts the tokens that the text of a value can come to. A long text without a space is none:
    it is a medium in base64, which counts 5000 at the most."""
    if isinstance(value, str):
        return 5000 if len(value) > 2000 and " " not in value else len(value.encode("utf-8", "replace")) // 3 + 1
    if isinstance(value, dict):
        return sum(len(name) // 3 + _text(one) for name, one in value.items())
    if isinstance(value, list):
        return sum(map(_text, value))
    return 1


def _ask(where, asked):
    call = urllib.request.Request(
        URL + where,
        data=json.dumps(asked).encode(),
        headers={"Authorization": "Bearer " + TOKEN, "Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(call, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        detail = f"keyledger answered {error.code}"
        if error.code in (401, 403):
            detail += ": KEYLEDGER_TOKEN is not a token of the role relay"
    except (OSError, ValueError) as error:
        detail = f"keyledger cannot be asked: {error}"
    raise _refusal(detail, "UNAVAILABLE", 503)
