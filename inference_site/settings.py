"""Every setting of the gateway and of a worker, each once. Environment variables are read by inference_site.env."""

import secrets
from pathlib import Path

from inference_site import env

BASE_DIR = Path(__file__).resolve().parent.parent

# --- This system's own -------------------------------------------------------------------------------------------

INFERENCE_MODE = env.choice("INFERENCE_MODE", ("gateway", "worker"), default="gateway")
IS_GATEWAY = INFERENCE_MODE == "gateway"
# Models as a folder, as one file, or both; the bundled file is served only if neither is given.
MODEL_REPOSITORY = env.path("MODEL_REPOSITORY", None, base=BASE_DIR)
MODEL_PATH_IS_DEFAULT = not env.text("MODEL_PATH")
MODEL_PATH = env.path("MODEL_PATH", None if MODEL_REPOSITORY else BASE_DIR / "models" / "digits.onnx", base=BASE_DIR)
MAX_MODEL_MIB = env.integer("MAX_MODEL_MIB", 2048, minimum=1, maximum=2**20)
GPU_MEM_LIMIT_MIB = env.integer("GPU_MEM_LIMIT_MIB", 0, minimum=0, maximum=2**20)  # 0: no limit
STATE_DIR = env.path("STATE_DIR", BASE_DIR / "var", base=BASE_DIR)
INFERENCE_TOKEN = env.text("INFERENCE_TOKEN")
MODEL_CONTROL_TOKEN = env.text("MODEL_CONTROL_TOKEN")  # who may load and unload models; empty: clients on this machine
GRPC_PORT = env.integer("GRPC_PORT", 0, minimum=0, maximum=65535)  # 0: off
DATA_PLANE = env.choice("DATA_PLANE", ("fast", "django"), default="fast")
MAX_BODY_BYTES = env.integer("MAX_BODY_BYTES", 16 * 2**20, minimum=1024, maximum=2**31)
MAX_IN_FLIGHT_BYTES = env.integer(
    "MAX_IN_FLIGHT_BYTES", max(512 * 2**20, MAX_BODY_BYTES), minimum=MAX_BODY_BYTES, maximum=2**40
)

# --- Who may talk to it ------------------------------------------------------------------------------------------

DEBUG = env.flag("DEBUG", default=False)
SECRET_KEY_IS_GENERATED = not env.text("SECRET_KEY")
ALLOWED_HOSTS_ARE_DEFAULT = not env.names("ALLOWED_HOSTS")
if IS_GATEWAY:
    SECRET_KEY = env.text("SECRET_KEY") or env.kept_secret(STATE_DIR / "secret_key")
    ALLOWED_HOSTS = env.names("ALLOWED_HOSTS", default=("localhost", "127.0.0.1", "[::1]"))
else:
    # A worker has no cookies, no sessions and no links: it signs nothing, and a forged Host header reaches nothing.
    SECRET_KEY = env.text("SECRET_KEY") or secrets.token_urlsafe(50)
    ALLOWED_HOSTS = env.names("ALLOWED_HOSTS", default=("*",))
CSRF_TRUSTED_ORIGINS = env.origins("CSRF_TRUSTED_ORIGINS")
# If all of them are https, a proxy in front ends TLS: cookies are for https only, and it says how it was asked itself.
IS_BEHIND_TLS = bool(CSRF_TRUSTED_ORIGINS) and all(origin.startswith("https://") for origin in CSRF_TRUSTED_ORIGINS)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_BEHIND_TLS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if IS_BEHIND_TLS else None
# To redirect and to send Strict-Transport-Security is the proxy's, for Django sees no inference; the rest is said by
# inference.W001. A worker has no forms.
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008", "security.W012", "security.W016"]
if not IS_GATEWAY:
    SILENCED_SYSTEM_CHECKS.append("security.W003")
CSRF_FAILURE_VIEW = "inference_site.apierrors.csrf_failure"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
# Above the limit that the views enforce themselves, so that theirs answers, with this system's error.
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES + 2**20

# --- Django ------------------------------------------------------------------------------------------------------

if IS_GATEWAY:
    INSTALLED_APPS = [
        "inference_site.apps.Daphne",  # first: its runserver speaks ASGI
        "channels",
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
        "inference_site.apps.RestFramework",
        "rest_framework.authtoken",
        "gateway_app",
        "worker_app",
    ]
    MIDDLEWARE = [
        "django.middleware.security.SecurityMiddleware",
        "inference_site.middleware.content_security_policy",
        "inference_site.middleware.wrong_verbs",
        "inference_site.staticfiles.StaticFiles",
        "inference_site.middleware.compression",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ]
else:
    # A worker has no database: what would ask for one (sessions, users, the admin) is not even loaded.
    INSTALLED_APPS = ["channels", "django.contrib.staticfiles", "inference_site.apps.RestFramework", "worker_app"]
    MIDDLEWARE = [
        "django.middleware.security.SecurityMiddleware",
        "inference_site.middleware.content_security_policy",
        "inference_site.middleware.wrong_verbs",
        "inference_site.staticfiles.StaticFiles",
        "inference_site.middleware.compression",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ]

ASGI_APPLICATION = "inference_site.asgi.application"
ROOT_URLCONF = f"inference_site.urls_{INFERENCE_MODE}"
APPEND_SLASH = False
DATABASE_URL = env.text("DATABASE_URL", "sqlite:///db.sqlite3")
DATABASES = {"default": env.database("DATABASE_URL", DATABASE_URL, base=BASE_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "admin:login"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                *(
                    [
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                    if IS_GATEWAY
                    else []
                ),
            ],
        },
    }
]

# Static files come straight from the apps, under any ASGI server and without collectstatic.
STATIC_URL = "/static/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "inference_site.staticfiles.VersionedStorage"},
}
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_ALLOW_ALL_ORIGINS = False

# The API is public; only the admin has users, and Django's own middleware serves those.
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_PARSER_CLASSES": [
        "rest_framework.parsers.JSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "EXCEPTION_HANDLER": "inference_site.apierrors.exception_handler",
}

# --- Logging: one stream, one line per record; runcluster puts the process's name in front -----------------------

LOG_LEVEL = env.choice("LOG_LEVEL", ("INFO", "WARNING", "ERROR"), default="INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    # Not ready is an answer, not an error of ours: during a drain each poll would leave a line.
    "filters": {
        "no_unready": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) != 503,
        },
        "repeats": {"()": "inference_site.logs.Repeats"},
    },
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "level": LOG_LEVEL, "filters": ["repeats"]}
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # Django's own handlers off: its records take the way of all others.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        # A client's mistake is answered and counted, not logged: 500 of them in a row would drown what matters.
        "django.request": {"level": "ERROR", "filters": ["no_unready"]},
        "django.security": {"level": "CRITICAL"},
        "uvicorn": {"handlers": [], "level": "INFO", "propagate": True},
        # Its warnings are about clients that speak no HTTP: answered and counted too.
        "uvicorn.error": {"level": "ERROR"},
        # Connections to workers are logged where they are kept; a warning is that it waits while a large body is sent.
        "picows": {"level": "ERROR"},
        "uvicorn.access": {"handlers": [], "level": "CRITICAL", "propagate": False},
    },
}
