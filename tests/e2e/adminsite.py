"""The admin as an operator's browser uses it: pages fetched, forms filled in and sent back whole."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import requests

from tests.support.waiting import PATIENCE_S


class Form(HTMLParser):
    """The values that a browser would send back for the form of this page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self._inside = given.get("id") != "logout-form"
        name, kind = given.get("name"), given.get("type")
        if not self._inside or tag != "input" or not name or kind in ("submit", "search"):
            return
        if kind != "checkbox" or "checked" in given:
            self.values[name] = given.get("value") or ("on" if kind == "checkbox" else "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


class AdminSite:
    """Logged in with a name and a password, in one session with its cookies."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.headers["Referer"] = url
        self._session.headers["Connection"] = "close"  # one that is kept may end just when it is used again
        page = self._get("/admin/login/")
        values = Form(page).values | {"username": username, "password": password, "next": "/admin/"}
        assert "Log out" in self._post("/admin/login/", values), "the login was refused"

    def close(self) -> None:
        self._session.close()

    def tune(self, **values: object) -> str:
        """Changes fields of the tuning and saves; the page that follows. False empties a checkbox."""
        return self._save("/admin/gateway_app/tuning/1/change/", values)

    def preview_tuning(self, **values: object) -> str:
        """What a change would do, with a form that saves it."""
        path = "/admin/gateway_app/tuning/1/change/"
        return self._send(path, Form(self._get(path)).values, values, "_preview")

    def save_previewed(self, page: str, path: str = "/admin/gateway_app/tuning/1/change/", **values: object) -> str:
        """Presses Save on a preview; the page that follows."""
        return self._send(path, Form(page).values, values)

    def preview_workers(self, **changes: dict[str, object]) -> str:
        """What changes of the list would do: of each worker some fields."""
        path = "/admin/gateway_app/worker/"
        page = self._get(path)
        values: dict[str, object] = {}
        for name, fields in changes.items():
            row = page[: page.index(f">{name}</a>")].count('class="action-select"') - 1
            values |= {f"form-{row}-{field}": value for field, value in fields.items()}
        return self._send(path, Form(page).values, values, "_preview")

    def restore(self, revision: int, **values: object) -> str:
        """Goes back to a revision; the page that follows."""
        path = f"/admin/gateway_app/revision/{revision}/restore/"
        return self._send(path, Form(self._get(path)).values, values)

    def add_worker(self, **values: object) -> str:
        return self._save("/admin/gateway_app/worker/add/", values)

    def change_worker(self, name: str, **values: object) -> str:
        """By the list's own fields, as an operator changes several at once; all others are sent back as they are."""
        path = "/admin/gateway_app/worker/"
        page = self._get(path)
        form = Form(page).values
        row = page[: page.index(f">{name}</a>")].count('class="action-select"') - 1
        return self._send(path, form, {f"form-{row}-{field}": value for field, value in values.items()})

    def set_model(self, name: str, **values: object) -> str:
        """Changes a model's settings, which are made if there are none. Yes-or-no fields take true, false, unknown."""
        path = "/admin/gateway_app/modelrecord/"
        row = re.search(rf"/modelrecord/(\d+)/change/[^>]*>{re.escape(name)}</a>", self._get(path))
        path += f"{row[1]}/change/" if row else "add/"
        return self._save(path, {"name": name, **values})

    def add_model(self, **values: object) -> str:
        """Settings of a model of their own; what is left out is as usual."""
        return self._save("/admin/gateway_app/modelrecord/add/", values)

    def remove_model(self, name: str) -> str:
        """Its settings, not the model."""
        path = "/admin/gateway_app/modelrecord/"
        page = self._get(path)
        number = page[: page.index(f">{name}</a>")].rpartition("/change/")[0].rpartition("/")[2]
        path = f"{path}{number}/delete/"
        return self._post(path, Form(self._get(path)).values | {"post": "yes"})

    def act(self, action: str, *names: str, comment: str = "") -> str:
        """Runs one of the list's actions on these workers, and confirms it."""
        path = "/admin/gateway_app/worker/"
        page = self._get(path)
        numbers = [page[: page.index(f">{name}</a>")].rpartition("/change/")[0].rpartition("/")[2] for name in names]
        form = Form(page).values | {"action": action, "index": "0"}
        page = self._post(path, form | {"_selected_action": numbers})
        assert "Back, and change nothing" in page, page
        return self._confirm(f"{path}operate/", page, comment)

    def operate_model(self, action: str, name: str, comment: str = "") -> str:
        """Loads or unloads a model, whether it has settings or not."""
        path = "/admin/gateway_app/modelrecord/"
        token = Form(self._get(path)).values["csrfmiddlewaretoken"]
        page = self._post(f"{path}operate/", {"csrfmiddlewaretoken": token, "action": action, "target": name})
        return self._confirm(f"{path}operate/", page, comment)

    def upload(self, name: str, file: Path) -> str:
        """Sends a model in one piece, as a browser without JavaScript does; where its page is."""
        path = "/admin/gateway_app/modelrecord/upload/"
        form = Form(self._get(path)).values
        with file.open("rb") as stream:
            values = {"csrfmiddlewaretoken": form["csrfmiddlewaretoken"], "name": name}
            response = self._session.post(self._url + path, values, files={"file": stream}, timeout=PATIENCE_S)
        assert response.status_code == 200, f"POST {path}: {response.status_code} {response.text[:500]}"
        assert response.url != self._url + path, unescape(response.text)
        return response.url.removeprefix(self._url)

    def press(self, path: str, button: str) -> str:
        """A button of a page with nothing else to fill in; the page that follows."""
        return self._post(path, Form(self._get(path)).values | {"action": button})

    def send(self, page: str, path: str = "", **values: object) -> str:
        """Fills in the form of a page, and sends it there or to another path; the page that follows."""
        return self._post(
            path or page, Form(self._get(page)).values | {name: str(each) for name, each in values.items()}
        )

    def page(self, path: str) -> str:
        return unescape(self._get(path))

    def newest_revision(self) -> int:
        """Of all that was saved; it may not be in force yet."""
        page = self._get("/admin/gateway_app/revision/")
        return max(int(number) for number in re.findall(r"/admin/gateway_app/revision/(\d+)/", page))

    def _confirm(self, path: str, page: str, comment: str) -> str:
        """Sends a confirmation's form back; several targets have fields of one name."""
        targets: list[str] = re.findall(r'name="target" value="([^"]+)"', page)
        form: dict[str, str | list[str]] = {**Form(page).values, "target": targets, "comment": comment}
        return self._post(path, form)

    def _save(self, path: str, values: dict[str, object]) -> str:
        return self._send(path, Form(self._get(path)).values, values)

    def _send(self, path: str, form: dict[str, str], values: dict[str, object], button: str = "_save") -> str:
        for name, value in values.items():
            if value is False:
                form.pop(name, None)
            else:
                form[name] = "on" if value is True else str(value)
        return self._post(path, form | {button: "1"})

    def _get(self, path: str) -> str:
        response = self._session.get(self._url + path, timeout=PATIENCE_S)
        assert response.status_code == 200, f"GET {path}: {response.status_code}"
        return response.text

    def _post(self, path: str, values: dict[str, str] | dict[str, str | list[str]]) -> str:
        response = self._session.post(self._url + path, values, timeout=PATIENCE_S)
        assert response.status_code == 200, f"POST {path}: {response.status_code} {response.text[:500]}"
        return unescape(response.text)
